"""Rounds, medians and reports of the benchmarks: readings by name enter, a table and one JSON object leave.

A round takes every reading once, one after the other, so that whatever drifts hits all of them. A round during which
another program took the cores is thrown away, counted and repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tests.perf.load import Load, Meter, adopt_orphans

ROOT = Path(__file__).parents[2]
_PATIENCE = 4
"""Rounds tried for each one wanted, before a busy machine is given up on."""

Reading = dict[str, float]
Numbers = Sequence[float]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach: `at most` or `at least` a number, in the figure's unit."""

    sense: str
    value: float

    def met(self, number: float) -> bool:
        return number <= self.value if self.sense == "at most" else number >= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"


def at_most(value: float) -> Target:
    return Target("at most", value)


def at_least(value: float) -> Target:
    return Target("at least", value)


@dataclass(frozen=True, slots=True)
class Figure:
    """One result: all readings of the kept rounds, their median, and the target where there is one."""

    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.median)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "values": list(self.values),
            "target": str(self.target) if self.target else None,
            "met": self.met,
        }


@dataclass(slots=True)
class Rounds:
    """The readings of the rounds that count, and the loads of all that were played."""

    readings: list[Reading] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    thrown: list[Load] = field(default_factory=list)
    wanted: int = 0

    def has(self, name: str) -> bool:
        return all(name in reading for reading in self.readings)

    def figure(self, name: str, unit: str, target: Target | None = None) -> Figure:
        """The readings called `name`."""
        return Figure(name, unit, tuple(reading[name] for reading in self.readings), target)

    def ratio(self, title: str, above: str, below: str, target: Target | None = None) -> Figure:
        """`above` / `below`, divided within each round: what slows a whole round down cancels out."""
        return Figure(title, "", tuple(r[above] / r[below] for r in self.readings), target)


def arguments(text: str, *, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds that must count (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write one JSON object here, '-' for standard output")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every engine")
    parser.add_argument("--model", type=Path, default=None, help="GGUF to run (default: the starter model)")
    parser.add_argument("--foreign", type=float, default=0.1, help="cores that others may take in a round")
    parser.add_argument("--any-load", action="store_true", help="keep disturbed rounds, for trying a benchmark out")
    return parser


def play(options: argparse.Namespace, once: Callable[[int], Reading]) -> Rounds:
    """Call `once` with the round's number until enough rounds count."""
    adopt_orphans()
    rounds = Rounds(wanted=options.rounds)
    for number in range(_PATIENCE * options.rounds):
        meter = Meter()
        reading = once(number)
        load = meter.read()
        rounds.loads.append(load)
        disturbed = load.disturbed(options.foreign)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in reading.items())
        say(f"round {number + 1}{' (disturbed)' if disturbed else ''}: {shown}")
        if disturbed and not options.any_load:
            rounds.thrown.append(load)
            continue
        rounds.readings.append(reading)
        if len(rounds.readings) == options.rounds:
            break
    return rounds


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(name: str, options: argparse.Namespace, rounds: Rounds, figures: Sequence[Figure], **facts: Any) -> int:
    """Print the table, write the JSON where asked; return the exit code: 1 where rounds are lacking."""
    if not rounds.readings:
        say(f"{name}: none of {len(rounds.loads)} rounds was undisturbed; wait for a quiet machine, or --any-load")
        return 1
    whole = {
        "benchmark": name,
        "machine": machine(),
        "versions": versions(),
        "threads": options.threads,
        **facts,
        "rounds": {
            "wanted": rounds.wanted,
            "counted": len(rounds.readings),
            "thrown_away": len(rounds.thrown),
            "any_load": options.any_load,
            "loads": [asdict(load) for load in rounds.loads],
        },
        "figures": [figure.as_json() for figure in figures],
    }
    text = json.dumps(whole, ensure_ascii=False)
    to_stdout = options.json is not None and str(options.json) == "-"
    _table(name, rounds, figures, sys.stderr if to_stdout else sys.stdout)
    if to_stdout:
        print(text)
    elif options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if len(rounds.readings) == rounds.wanted else 1


def _table(name: str, rounds: Rounds, figures: Sequence[Figure], out: Any) -> None:
    width = max(len(figure.name) for figure in figures)
    print(f"{name}: {len(rounds.readings)} rounds, {len(rounds.thrown)} thrown away", file=out)
    print(f"{'':{width}}  {'median':>9}  {'low':>9}  {'high':>9}  unit      target", file=out)
    for figure in figures:
        verdict = "" if figure.target is None else f"{figure.target} {'met' if figure.met else 'MISSED'}"
        spread = f"{figure.median:9.4g}  {min(figure.values):9.4g}  {max(figure.values):9.4g}"
        print(f"{figure.name:{width}}  {spread}  {figure.unit:<8}  {verdict}", file=out)


def quantile(values: Numbers, share: float) -> float:
    """The value below which `share` of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def gaps(times: Numbers) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def rate(times: Numbers) -> float:
    """Events per second between the first and the last of `times`; the first one comes out of prefill."""
    return (len(times) - 1) / (times[-1] - times[0])


def machine() -> dict[str, Any]:
    """What a reader must know to place the figures."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def versions() -> dict[str, str | None]:
    """Of what took part; `commit` is None outside a checkout."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": done.stdout.strip() or None}
    for package in ("localai-daemon", "llama-cpp-python", "llguidance", "numpy", "uvicorn", "uvloop"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
