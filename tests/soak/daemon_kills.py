"""Kills a daemon that follows a folder, takes in files and forgets, again and again; checks what `ingest_kills` does.

python -m tests.soak.daemon_kills 40
"""

from __future__ import annotations

import fcntl
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai.errors import LocalaiError
from memory_store.file_digest import digest
from tests.daemon_fixture import Daemon, resting
from tests.soak.ingest_kills import SPACE, Acknowledged, Disturber, Place, check, kill_reader, word_of

ROUTE = "/localai/memory"


@dataclass(frozen=True)
class Home(Place):
    """As the daemon lays it out."""

    @property
    def index(self) -> Path:
        return self.base / "memory-index"


class Visitors:
    """What people and programs do meanwhile, until the daemon answers no more."""

    def __init__(self, daemon: Daemon, place: Place, run: str, told: Acknowledged) -> None:
        self._daemon, self._place, self._told, self._run = daemon, place, told, run
        self._ended = threading.Event()
        works = (self._disturb, self._forget, self._command)
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _work(self, work: Any) -> None:
        dice = random.Random(f"{self._run} {work.__name__}")
        disturber = Disturber(self._place, f"{self._run}{work.__name__[1]}")
        while not self._ended.is_set():
            try:
                work(dice, disturber)
            except (LocalaiError, OSError):
                time.sleep(0.01)  # killed, or what was asked for is not there any more

    def _disturb(self, dice: random.Random, disturber: Disturber) -> None:
        time.sleep(dice.uniform(0, 0.05))
        given = disturber.step()
        if given is not None:
            of = digest(given)
            found = self._daemon.client.post(f"{ROUTE}/files", {"paths": [str(given)], "namespace": SPACE})
            if not found["files"][0]["problem"]:
                self._told.hear("given", of, str(given))

    def _forget(self, dice: random.Random, disturber: Disturber) -> None:
        time.sleep(dice.uniform(0.05, 0.3))
        found = self._daemon.client.get(f"{ROUTE}?limit=40")["memories"]
        if found:
            victim = dice.choice(found)
            self._daemon.client.post(f"{ROUTE}/forget", {"ids": [victim["id"]]})
            self._told.hear("forgotten", victim["id"], word_of(victim["text"]))

    def _command(self, dice: random.Random, disturber: Disturber) -> None:
        """The same as a person types it."""
        path = self._place.given / f"typed{dice.randrange(100_000)}.md"
        disturber.write(path)
        of = digest(path)
        command = [sys.executable, "-P", "-m", "localai", "memory", "add", "--file", str(path), "-n", SPACE]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, env=self._daemon.env, stdin=quiet, stdout=quiet, stderr=quiet) as typed:
            while typed.poll() is None:
                if self._ended.wait(0.02):
                    typed.kill()
        if typed.returncode == 0:
            self._told.hear("given", of, str(path))


def kills(rounds: int, seed: int, longest: float = 4.0) -> Acknowledged:
    dice, told = random.Random(seed), Acknowledged()
    with resting() as daemon:
        place = Home(daemon.home)
        for folder in (place.followed, place.given):
            folder.mkdir()
        for run in range(rounds):
            daemon.start()
            if run == 0:
                daemon.client.post(f"{ROUTE}/watch", {"folder": str(place.followed), "namespace": SPACE})
            visitors = Visitors(daemon, place, f"d{seed}r{run}", told)
            seconds = dice.uniform(0.2, longest)
            time.sleep(seconds / 2)
            assert daemon.process is not None
            told.readers_killed += dice.random() < 0.4 and kill_reader(daemon.process.pid)
            time.sleep(seconds / 2)
            with (daemon.home / "run" / "start.lock").open("a") as lock:
                # A command that finds no daemon would start one.
                fcntl.flock(lock, fcntl.LOCK_EX)
                daemon.end(signal.SIGKILL)
                visitors.end()
            entries = check(place, told, raw=run % 5 == 0)
            counts = f"{len(told.by_hand)} given, {len(told.forgotten)} forgotten, {told.readers_killed} readers killed"
            print(f"kill {run + 1}/{rounds}: {entries} log entries, {told.changes} changes, {counts}", file=sys.stderr)
    return told


if __name__ == "__main__":
    kills(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    print(
        f"{sys.argv[1]} kills of a daemon: no file half in, none twice, nothing back, every index equal to its rebuild"
    )
