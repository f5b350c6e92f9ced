"""Kills a process that writes and erases, again and again, and checks that the memory lost nothing and holds together.

    python -m tests.soak.memory_kills 200

Each round: a child adds and forgets, and reports every acknowledged change; after a random time it gets
SIGKILL. Then: integrity check clean, nothing acknowledged lost, nothing forgotten back, full text equal to a rebuild.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from memory_store.doctor import examine, rebuild_full_text
from memory_store.embed import StaticEmbedder
from memory_store.erase import forget, store_files
from memory_store.records import NewMemory
from memory_store.store import Store

WRITERS = 4
POSTINGS = "SELECT term, doc, col, offset FROM temp.posting ORDER BY term, doc, col, offset"


@dataclass
class Ledger:
    """What the children have acknowledged. What was under way when they died may be there or not."""

    added: dict[str, str] = field(default_factory=dict)
    forgotten: dict[str, str] = field(default_factory=dict)
    forgetting: set[str] = field(default_factory=set)


def text_of(name: str) -> str:
    return f"memory {name} tells of pebble{name} and of lantern{name} beside the old mill"


def child(path: Path, run: str) -> None:
    """Adds from several threads, forgets now and then; one line for each change once it is durable."""
    store = Store(path, embedder=StaticEmbedder())
    says = threading.Lock()
    dice = random.Random(run)

    def say(line: str) -> None:
        with says:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def write(thread: int) -> None:
        for n in range(100_000):
            name = f"{run}x{thread}x{n}"
            say(f"added {store.add(NewMemory(text=text_of(name), id=name)).id}")

    for thread in range(WRITERS):
        threading.Thread(target=write, args=(thread,), daemon=True).start()
    while True:
        time.sleep(dice.uniform(0.02, 0.1))
        listed = store.list(limit=30)
        if listed:
            victim = dice.choice(listed).id
            say(f"forgetting {victim}")
            forget(store, ids=[victim])
            say(f"forgotten {victim}")


def kill_once(path: Path, run: str, seconds: float, ledger: Ledger) -> None:
    command = [sys.executable, "-m", "tests.soak.memory_kills", "child", str(path), run]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    first = started.stdout.readline()
    time.sleep(seconds)
    os.kill(started.pid, signal.SIGKILL)
    lines = [first, *started.stdout.read().splitlines(keepends=True)]
    started.wait()
    started.stdout.close()
    for line in lines:
        if not line.endswith("\n"):
            continue
        verb, name = line.split()
        if verb == "added":
            ledger.added[name] = text_of(name)
        elif verb == "forgetting":
            ledger.forgetting.add(name)
        else:
            ledger.forgotten[name] = text_of(name)


def check(path: Path, ledger: Ledger) -> int:
    """Raises AssertionError where anything is wrong; returns the number of memories."""
    store = Store(path, embedder=StaticEmbedder())
    found = examine(store)
    assert found.healthy, found
    with store.reading() as connection:
        texts = dict(connection.execute("SELECT id, text FROM memory"))
    lost = {name for name, text in ledger.added.items() if texts.get(name) != text} - ledger.forgetting
    assert not lost, f"{len(lost)} acknowledged memories are lost: {sorted(lost)[:3]}"
    assert not texts.keys() & ledger.forgotten.keys(), "a forgotten memory is back"
    raw = b"".join(file.read_bytes() for file in store_files(path) if file.exists())
    left = [name for name in ledger.forgotten if f"pebble{name} ".encode() in raw]
    assert not left, f"text of forgotten memories is in the file: {left[:3]}"
    before = postings(store)
    store.write(rebuild_full_text)
    assert postings(store) == before, "the full-text index differs from a rebuild"
    store.close()
    return len(texts)


def postings(store: Store) -> list[tuple[object, ...]]:
    def read(connection: object) -> list[tuple[object, ...]]:
        connection.execute("CREATE VIRTUAL TABLE temp.posting USING fts5vocab(main, memory_text, instance)")  # type: ignore[attr-defined]
        found = connection.execute(POSTINGS).fetchall()  # type: ignore[attr-defined]
        connection.execute("DROP TABLE temp.posting")  # type: ignore[attr-defined]
        return found

    return store.maintain(read)


def kills(path: Path, rounds: int, seed: int, *, fresh_every: int = 10, longest: float = 0.6) -> int:
    """Run `rounds` kills, a new file every `fresh_every`; returns how many changes were acknowledged in all."""
    dice, acknowledged, ledger, file = random.Random(seed), 0, Ledger(), path
    for run in range(rounds):
        if run % fresh_every == 0:
            ledger, file = Ledger(), path.with_name(f"{path.stem}-{run}.db")
        before = len(ledger.added) + len(ledger.forgotten)
        kill_once(file, f"r{run}", dice.uniform(0, longest), ledger)
        memories = check(file, ledger)
        acknowledged += len(ledger.added) + len(ledger.forgotten) - before
        print(f"kill {run + 1}/{rounds}: {memories} memories, {acknowledged} changes acknowledged", file=sys.stderr)
    return acknowledged


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]), sys.argv[3])
    else:
        with TemporaryDirectory() as folder:
            kills(Path(folder) / "memory.db", int(sys.argv[1]), seed=1)
        print(f"{sys.argv[1]} kills: nothing lost, nothing back, every index equal to its rebuild")
