"""Runs a suite over configurations through the running daemon, block by block, into a journal.

Every configuration answers its share of the questions once per round, and the rounds turn the order, so that what
drifts on the machine touches all alike. Knows nothing of statistics or reports.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from localai.bench.asking import Asker
from localai.bench.configurations import Configuration
from localai.bench.journal import Journal, config_rounds
from localai.bench.rows import Block, End
from localai.bench.surroundings import busy_seconds, idle, peak_bytes
from localai.bench.tasks import Item, Suite
from localai.client import Client
from localai.energy.sensor import Sensor

_WARM_TOKENS = 16
_WARM_LAST = 3
_WARM_MOST = 8
_WARM_S = 12.0
_STEADY = 0.1
"""The rate is stable when the last answers of the warm-up differ by less than this, as standard deviation by mean."""


class Watcher(Protocol):
    """Who shows progress."""

    def stage(self, text: str) -> None: ...

    def resume(self, count: int) -> None: ...

    def advance(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Runner:
    """What a run needs, `names` as in `Chosen`.

    `restart` starts the daemon anew with so many threads; never called for configurations of 0.
    """

    client: Client
    suite: Suite
    configurations: Sequence[Configuration]
    names: Mapping[str, str]
    sensors: Sequence[Sensor]
    idle_s: float
    restart: Callable[[int], None]
    watcher: Watcher

    def run(self, journal: Journal) -> None:
        """Do what the journal lacks. Raises LocalaiError where the run cannot go on; the journal keeps what is done."""
        head, by_key = journal.head, {config.key: config for config in self.configurations}
        # What is asked again after an interruption is computed again.
        asker = Asker(self.client, f"{head.plan[:16]} {head.started} {journal.resumptions}", self.names)
        parts = self.suite.rounds(head.rounds)
        done, threads = journal.done, 0
        self.watcher.resume(sum(len(parts[number]) for _, number in done))
        if not journal.idles:
            self._idle(journal, asker, "before")
        for number, key in config_rounds(sorted(by_key, key=lambda k: by_key[k].threads), len(parts)):
            config = by_key[key]
            if (key, number) in done:
                continue
            if config.threads and config.threads != threads:
                self.watcher.stage(f"starting the daemon with {config.threads} threads")
                self.restart(config.threads)
                threads = config.threads
            self._block(journal, asker, config, number, parts[number])
        self._idle(journal, asker, "after")
        journal.write(End(finished=time.time()))

    def _idle(self, journal: Journal, asker: Asker, when: str) -> None:
        if when == "before":
            for config in self.configurations:
                self.watcher.stage(f"loading {config.key}")
                asker.warm_up(config, 1)
        self.watcher.stage(f"measuring the idle machine {when} the questions")
        journal.write(idle(when, self.sensors, self.idle_s))

    def _block(self, journal: Journal, asker: Asker, config: Configuration, number: int, items: Sequence[Item]) -> None:
        self.watcher.stage(f"{config.key}, round {number + 1}: warming up")
        warmup, steady = _warm(asker, config)
        begun, busy, own = time.monotonic(), busy_seconds(), 0.0
        self.watcher.stage(f"{config.key}, round {number + 1}")
        for item in items:
            row = asker.ask(item, config, number)
            own += row.cpu_seconds or 0.0
            journal.write(row)
            self.watcher.advance(1)
        took = time.monotonic() - begun
        engine = self._engine(config)
        journal.write(
            Block(
                config=config.key,
                round=number,
                seconds=round(took, 3),
                warmup=warmup,
                steady=steady,
                threads=engine.get("threads"),
                peak_bytes=peak_bytes(engine),
                foreign_cores=round(max(0.0, busy_seconds() - busy - own) / took, 3),
            )
        )

    def _engine(self, config: Configuration) -> dict[str, Any]:
        """What the daemon says of the engine that answered."""
        name, _, mode = config.backend.partition(":")
        for engine in self.client.get("/localai/status")["engines"]:
            if (engine["model"], engine["backend"], engine["mode"]) == (config.model, name, mode):
                return dict(engine)
        return {}


def _warm(asker: Asker, config: Configuration) -> tuple[int, bool]:
    """Answer until the rate is stable: how many answers that took, and whether it came to that."""
    begun = time.monotonic()
    rates: deque[float] = deque(maxlen=_WARM_LAST)
    for count in range(1, _WARM_MOST + 1):
        rate, _ = asker.warm_up(config, _WARM_TOKENS)
        rates.append(rate or 0.0)
        mean = statistics.fmean(rates)
        if len(rates) == _WARM_LAST and mean and statistics.pstdev(rates) / mean < _STEADY:
            return count, True
        if time.monotonic() - begun > _WARM_S:
            break
    return count, False
