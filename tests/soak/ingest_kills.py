"""Kills a process that takes in files, again and again, and checks that no file is half in and none is in twice.

    python -m tests.soak.ingest_kills 200

Each round: a child follows a folder whose files come, change, move and go, takes in others by hand and forgets parts;
now and then the process that reads documents for it is killed; after a random time the child is. Then: the file is
whole, the indexes equal new ones, what is recorded as read is all there, what was forgotten is not. Another pass over
the folder brings the memory to what the disk says, and a further one finds nothing to do.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from memory_store import ingest, watch, withheld
from memory_store.chunks import chunks
from memory_store.doctor import examine, rebuild_full_text
from memory_store.documents import extract
from memory_store.duplicates import Seen
from memory_store.embed import StaticEmbedder
from memory_store.erase import forget, store_files
from memory_store.errors import MemoryStoreError
from memory_store.file_digest import digest
from memory_store.folder import listing
from memory_store.ingest import Ingest, Ingested
from memory_store.lexical import LexicalIndex
from memory_store.presence import Presence
from memory_store.store import Store
from memory_store.vectors import VectorIndex
from memory_store.watch import Watch, sync
from tests.soak.memory_kills import postings

SPACE = "docs"
EMBEDDER = StaticEmbedder()
ENDINGS = (".md", ".html", ".py", ".txt")
MOST_FILES = 40
MANY_PARTS = 300


@dataclass
class Acknowledged:
    """What the children have said: digests of files taken in by hand, and words of forgotten parts by id."""

    by_hand: dict[str, str] = field(default_factory=dict)
    forgotten: dict[str, str] = field(default_factory=dict)
    changes: int = 0
    readers_killed: int = 0

    def hear(self, verb: str, *rest: str) -> None:
        self.changes += 1
        if verb == "given":
            self.by_hand[rest[1]] = rest[0]
        elif verb == "forgotten":
            self.forgotten[rest[0]] = rest[1]


@dataclass(frozen=True)
class Place:
    """One memory with the folder that it follows, and one whose files are given by hand."""

    base: Path

    @property
    def store(self) -> Path:
        return self.base / "memory.db"

    @property
    def index(self) -> Path:
        return self.base / "index"

    @property
    def followed(self) -> Path:
        return self.base / "followed"

    @property
    def given(self) -> Path:
        return self.base / "given"


@dataclass(frozen=True)
class Opened:
    store: Store
    words: LexicalIndex
    vectors: VectorIndex
    ingest: Ingest


@contextmanager
def opened(place: Place) -> Iterator[Opened]:
    store = Store(place.store, embedder=EMBEDDER)
    words, vectors = LexicalIndex(store, place.index), VectorIndex(store, place.index)
    files = Ingest(store, namespace=SPACE, erase=lambda ids: forget(store, ids=ids, derived=(vectors, words)))
    yield Opened(store, words, vectors, files)
    files.close()
    vectors.close()
    words.close()
    store.close()


def part(token: str) -> str:
    """Every five words of it name the token: it covers nothing else and is covered by nothing else."""
    return f"Pebble{token} lies under bridge{token} and lantern{token} hangs beside mill{token} near pond{token} yet."


def document(ending: str, tokens: Sequence[str]) -> str:
    texts = [(token, part(token)) for token in tokens]
    if ending == ".md":
        return "".join(f"# Part {token}\n{text}\n\n" for token, text in texts)
    if ending == ".html":
        return "".join(f"<h1>Part {token}</h1><p>{text}</p>" for token, text in texts)
    if ending == ".py":
        return "".join(f"def f{token}():\n    return {text!r}\n\n\n" for token, text in texts)
    return "\n\n".join(text for _, text in texts)


def word_of(text: str) -> str:
    """The first word that no other part has."""
    found = re.search(r"Pebble\w+", text)
    assert found is not None, text
    return found[0]


class Disturber:
    """Changes files as people and programs do."""

    def __init__(self, place: Place, run: str) -> None:
        self._place = place
        self._run = run
        self._dice = random.Random(run)
        self._made = 0

    def step(self) -> Path | None:
        """One change; the path where the file is to be given by hand."""
        there = sorted(path for path in self._place.followed.rglob("*.*") if path.is_file() and path.suffix in ENDINGS)
        if not there or (len(there) < MOST_FILES and self._dice.random() < 0.3):
            self.write(self._place.followed / self._folder() / f"n{self._token()}{self._dice.choice(ENDINGS)}")
            return None
        chosen, dice = self._dice.choice(there), self._dice.random()
        with suppress(FileNotFoundError):
            if dice < 0.3:
                self.write(chosen)
            elif dice < 0.45:
                chosen.rename(self._place.followed / self._folder() / f"m{self._token()}{chosen.suffix}")
            elif dice < 0.55:
                chosen.unlink()
            elif dice < 0.65:
                half = shutil.copyfile(chosen, chosen.with_name("copy.tmp"))
                half.rename(chosen.with_name(f"c{self._token()}{chosen.suffix}"))
            elif dice < 0.7:
                chosen.parent.rename(self._place.followed / f"d{self._token()}")
            else:
                given = self._place.given / f"g{self._dice.randrange(12)}{self._dice.choice(ENDINGS)}"
                self.write(given)
                return given
        return None

    def write(self, path: Path) -> None:
        many = MANY_PARTS if self._dice.random() < 0.1 else self._dice.randint(1, 8)
        tokens = [self._token() for _ in range(many)]
        # A file that is given anew brings back what was forgotten of it.
        if path.exists() and path.suffix == ".md" and self._place.given not in path.parents:
            old = [line.removeprefix("# Part ") for line in path.read_text().splitlines() if line.startswith("# Part ")]
            tokens += old[: self._dice.randint(0, 8)]
        path.parent.mkdir(parents=True, exist_ok=True)
        # At once: half a part that is forgotten is another text than the whole.
        half = path.with_name(f"{path.name}.tmp")
        half.write_text(document(path.suffix, tokens))
        half.rename(path)

    def _folder(self) -> str:
        return f"d{self._dice.randrange(3)}"

    def _token(self) -> str:
        self._made += 1
        return f"{self._run}x{self._made}"


def child(place: Place, run: str) -> None:
    """Follows the folder; one line for each change that is durable."""
    # Soon and in small pieces, so that there is something to kill.
    watch.QUIET_SECONDS, watch.LONGEST_WAIT, ingest.TOGETHER = 0.01, 0.05, 4
    says, dice = threading.Lock(), random.Random(f"{run} forgets")

    def say(line: str) -> None:
        with says:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def forget_parts(parts: Opened) -> None:
        while True:
            time.sleep(dice.uniform(0.02, 0.2))
            found = parts.store.list(limit=40)
            if not found:
                continue
            victim = dice.choice(found)
            with suppress(MemoryStoreError):
                forget(parts.store, ids=[victim.id], derived=(parts.vectors, parts.words), lasting=True)
                say(f"forgotten {victim.id} {word_of(victim.text)}")

    with opened(place) as parts:
        presence = Presence(place.followed, place.store, listing(place.followed).parts)

        def told(done: Ingested) -> None:
            say(f"looked {done.added}")

        Watch(parts.ingest, place.followed, told, presence=presence, look_seconds=0.1).start()
        threading.Thread(target=forget_parts, args=(parts,), daemon=True).start()
        disturber = Disturber(place, run)
        while True:
            given = disturber.step()
            if given is not None:
                done = next(parts.ingest.put_many([given], by_hand=True))
                if not done.problem:
                    say(f"given {digest(given)} {given}")
            time.sleep(dice.uniform(0, 0.02))


def kill_once(place: Place, run: str, seconds: float, dice: random.Random, told: Acknowledged) -> None:
    command = [sys.executable, "-m", "tests.soak.ingest_kills", "child", str(place.base), run]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    lines = [started.stdout.readline()]
    if dice.random() < 0.4:
        time.sleep(seconds / 2)
        told.readers_killed += kill_reader(started.pid)
        seconds /= 2
    time.sleep(seconds)
    os.kill(started.pid, signal.SIGKILL)
    lines += started.stdout.read().splitlines(keepends=True)
    started.wait()
    started.stdout.close()
    for line in lines:
        if line.endswith("\n"):
            told.hear(*line.split())


def kill_reader(parent: int) -> bool:
    """The child's own child that reads documents."""
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in listed.read_text().split():
            with suppress(ProcessLookupError, FileNotFoundError):
                if b"memory_store.extractor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
                    return True
    return False


def check(place: Place, told: Acknowledged, *, raw: bool) -> int:
    """Raises AssertionError where anything is wrong, before another pass or after it; returns the log's length."""
    with opened(place) as parts:
        check_whole(parts)
        check_files(parts, told)
        check_gone(parts, place, told, raw=raw)
        presence = Presence(place.followed, place.store, listing(place.followed).parts)
        done = list(sync(parts.ingest, place.followed, presence))
        assert not [one for one in done if one.problem], done
        check_whole(parts)
        check_files(parts, told)
        known = parts.ingest.known()
        on_disk = {str(path): digest(path) for path in listing(place.followed).files}
        under = {name: of for name, of in known.items() if name.startswith(f"{place.followed}{os.sep}")}
        with parts.store.reading() as connection:
            fruitful = {name for name in on_disk if name in parts.ingest.named()}
            assert under == {name: on_disk[name] for name in fruitful}, "the memory is not what the disk says"
            for name in on_disk.keys() - fruitful:
                texts = texts_of(Path(name))
                assert texts == withheld.among(connection, parts.store.salt, SPACE, list(texts)), f"{name} is not in"
        for name in told.by_hand:
            assert name in known or name not in parts.ingest.named(), f"{name} was given and is half in"
        last = parts.store.changes(limit=1_000_000)[-1].seq
        assert not [
            one for one in sync(parts.ingest, place.followed, presence) if one.added or one.removed or one.problem
        ]
        assert parts.store.changes(limit=1_000_000)[-1].seq == last, "a second pass has changed something"
        check_gone(parts, place, told, raw=raw)
        return len(parts.store.changes(limit=1_000_000))


def check_whole(parts: Opened) -> None:
    """The file, and the indexes against new ones."""
    found = examine(parts.store)
    assert found.healthy, found
    before = postings(parts.store)
    parts.store.write(rebuild_full_text)
    assert postings(parts.store) == before, "the full-text index differs from a rebuild"
    assert parts.words.fits()
    assert parts.vectors.fits()
    words, vectors = LexicalIndex(parts.store), VectorIndex(parts.store)
    for memory in parts.store.list(limit=5):
        mine, new = (index.search(SPACE, memory.text, 10) for index in (parts.words, words))
        assert (mine[0].tolist(), mine[1].tolist()) == (new[0].tolist(), new[1].tolist()), "words differ from a rebuild"
        asked = EMBEDDER.embed([memory.text])[0]
        close, anew = (index.search(SPACE, asked, 10) for index in (parts.vectors, vectors))
        assert (close[0].tolist(), close[1].tolist()) == (anew[0].tolist(), anew[1].tolist()), "vectors differ"
    vectors.close()
    words.close()


def check_files(parts: Opened, told: Acknowledged) -> None:
    """What is recorded as read is all there, and nothing is there twice."""
    known, said = parts.ingest.known(), Seen()
    with parts.store.reading() as connection:
        rows = connection.execute(
            "SELECT m.num, m.text, m.digest, s.name FROM memory m JOIN source s ON s.id = m.source"
        ).fetchall()
        for num, text, _, _ in rows:
            said.add(num, text)
        every = [text for _, text, _, _ in rows]
        assert len(every) == len(set(every)), f"kept twice: {sorted(t for t in every if every.count(t) > 1)[:2]}"
        for _, _, of, name in rows:
            assert of == known.get(name, of), f"{name} is recorded as read and holds parts of another version"
        for name, of in known.items():
            path = Path(name)
            if not path.is_file() or digest(path) != of:
                continue
            missing = {text for text in texts_of(path) if said.covering(text) is None}
            missing -= withheld.among(connection, parts.store.salt, SPACE, list(missing))
            assert not missing, f"{name} is recorded as read and lacks {len(missing)} parts: {sorted(missing)[:2]}"
    for name, of in told.by_hand.items():
        if digest(Path(name)) == of:
            assert known.get(name, of) == of, f"{name} was acknowledged and is another version"


def check_gone(parts: Opened, place: Place, told: Acknowledged, *, raw: bool) -> None:
    with parts.store.reading() as connection:
        ids = {found for (found,) in connection.execute("SELECT id FROM memory")}
        texts = " ".join(text for (text,) in connection.execute("SELECT text FROM memory"))
    assert not ids & told.forgotten.keys(), "a forgotten memory is back"
    back = set(re.findall(r"Pebble\w+", texts)) & set(told.forgotten.values())
    assert not back, f"the text of a forgotten memory is back: {sorted(back)[:3]}"
    if raw:
        files = (*store_files(place.store), *(path for path in place.index.rglob("*") if path.is_file()))
        content = b"".join(path.read_bytes() for path in files if path.exists())
        left = [word for word in told.forgotten.values() if f"{word} ".encode() in content]
        assert not left, f"text of forgotten memories is in the files: {left[:3]}"


def texts_of(path: Path) -> set[str]:
    return {chunk.text for chunk in chunks(extract(path))}


def kills(
    base: Path, rounds: int, seed: int, *, fresh_every: int = 10, longest: float = 1.5, raw_every: int = 5
) -> Acknowledged:
    """Run `rounds` kills, a new memory every `fresh_every`; returns what was acknowledged in all."""
    dice, whole, told, place = random.Random(seed), Acknowledged(), Acknowledged(), Place(base)
    for run in range(rounds):
        if run % fresh_every == 0:
            told, place = Acknowledged(), Place(base / f"{seed}-{run}")
            for folder in (place.followed, place.given):
                folder.mkdir(parents=True)
        before = told.changes, told.readers_killed
        kill_once(place, f"s{seed}r{run}", dice.uniform(0, longest), dice, told)
        entries = check(place, told, raw=run % raw_every == 0)
        whole.changes += told.changes - before[0]
        whole.readers_killed += told.readers_killed - before[1]
        counts = f"{len(told.by_hand)} given, {len(told.forgotten)} forgotten, {whole.readers_killed} readers killed"
        print(f"kill {run + 1}/{rounds}: {entries} log entries, {whole.changes} changes, {counts}", file=sys.stderr)
    return whole


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Place(Path(sys.argv[2])), sys.argv[3])
    else:
        with TemporaryDirectory() as folder:
            kills(Path(folder), int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
        print(f"{sys.argv[1]} kills: no file half in, none twice, nothing back, every index equal to its rebuild")
