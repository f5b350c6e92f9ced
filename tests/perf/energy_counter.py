"""An NVIDIA board's own energy counter against what the daemon's ledger says, over minutes of mixed load:

    python -m tests.perf.energy_counter [--seconds 300] [--model MODEL] [--backend BACKEND]

Needs a board that NVML can read, and an engine built for it (`localai doctor` tells both); without, it says so and
ends with code 2. Long and short answers run one by one and side by side, with pauses. The counter is read here, by
itself; the ledger's side is what its rows sum up to, with what was idle and what is nobody's. Prints JSON, and ends
with code 1 where the two differ by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module, util
from typing import Any

from tests.daemon_fixture import Daemon, running, wait_for

MOST = 0.02
_SETTLE_S = 3.0
_FIRST = ("Hello", "Hello again")
"""Asked before the run, so that the model is loaded and what being idle takes is known."""
_MILLI = 1e-3


@dataclass(frozen=True, slots=True)
class Account:
    """Joules over the run: of the `counter`, of the ledger's `rows`, and beside them `idle` and `nobodys`.

    `unsaid` were given to answers that were too short to be told: they are part of what is attributed, and in no row.
    """

    counter: float
    rows: float
    idle: float
    nobodys: float
    unsaid: float

    @property
    def told(self) -> float:
        return self.rows + self.unsaid + self.idle + self.nobodys

    @property
    def off(self) -> float:
        """How far the ledger is from the counter, relative."""
        return abs(self.told - self.counter) / self.counter

    @property
    def unattributed(self) -> float:
        return abs(self.nobodys) / self.counter

    @property
    def holds(self) -> bool:
        return self.off <= MOST and self.unattributed <= MOST


def account(
    counter: float, rows: Iterable[Mapping[str, Any]], before: Mapping[str, float], after: Mapping[str, float]
) -> Account:
    """From joules of the counter, rows of the ledger, and the meter's totals at both ends of the run."""
    risen = {name: after[name] - before[name] for name in ("attributed", "idle", "unattributed")}
    known = sum((row["joules"] or 0.0) + (row["idle_joules"] or 0.0) for row in rows)
    return Account(counter, known, risen["idle"], risen["unattributed"], risen["attributed"] - known)


class NoBoard(Exception):
    """Why no board's counter can be read here."""


def counter() -> Callable[[], float]:
    """What gives the joules of all boards since their drivers were loaded. Raises NoBoard."""
    if util.find_spec("pynvml") is None:
        raise NoBoard("nvidia-ml-py is not installed: pip install nvidia-ml-py")
    nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
        boards = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        for board in boards:
            nvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except nvml.NVMLError as error:
        raise NoBoard(f"there is no NVML here, or its boards count no energy: {error}") from error
    if not boards:
        raise NoBoard("NVML knows no board here")
    return lambda: sum(nvml.nvmlDeviceGetTotalEnergyConsumption(board) for board in boards) * _MILLI


def load(daemon: Daemon, seconds: float, **fields: Any) -> None:
    """Keep the daemon busy: one long answer, four side by side, a long prompt, short ones with pauses."""
    until, turn = time.monotonic() + seconds, 0
    story = "The river runs from the hills to the sea, and many towns lie along it. "
    with ThreadPoolExecutor(4) as threads:
        while time.monotonic() < until:
            turn += 1
            daemon.chat(f"{turn}. Tell a long story of foxes.", max_tokens=256, ignore_eos=True, **fields)
            asked = [f"{turn}.{each} What do foxes eat?" for each in range(4)]
            list(threads.map(lambda text: daemon.chat(text, max_tokens=96, ignore_eos=True, **fields), asked))
            daemon.chat(f"{turn}. Sum this up. {story * 60}", max_tokens=32, ignore_eos=True, **fields)
            for each in range(3):
                daemon.chat(f"{turn}.{each} Hello", max_tokens=8, **fields)
                time.sleep(0.5)


def totals(daemon: Daemon) -> dict[str, float]:
    found: dict[str, float] = daemon.client.get("/localai/energy")["since_start"]
    return found


def measured(joules: Callable[[], float], seconds: float, **fields: Any) -> dict[str, Any]:
    """The account of one run on a daemon of its own."""
    with running(LOCALAI_CALIBRATE="0", LOCALAI_THREADS="0") as daemon:
        daemon.chat(_FIRST[0], **fields)
        sensors = daemon.client.get("/localai/energy")["sensors"]
        others = [each["id"] for each in sensors if not each["id"].startswith("nvml")]
        if others:
            raise NoBoard(f"the meter adds other sensors here, so that the board's is not its sum: {', '.join(others)}")
        time.sleep(_SETTLE_S)
        daemon.chat(_FIRST[1], **fields)
        wait_for(lambda: len(daemon.rows("queries")) == len(_FIRST))
        before, start = totals(daemon), joules()
        load(daemon, seconds, **fields)
        end, after = joules(), totals(daemon)
        time.sleep(_SETTLE_S)
        engines = [engine["settings"] for engine in daemon.engines()]
        found = account(end - start, daemon.rows("queries")[len(_FIRST) :], before, after)
    shown = {**asdict(found), "told": found.told, "off": found.off, "unattributed": found.unattributed}
    return {**shown, "holds": found.holds, "seconds": seconds, "sensors": [s["id"] for s in sensors], "on": engines}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--model", default="")
    parser.add_argument("--backend", default="")
    options = parser.parse_args()
    fields = {name: value for name in ("model", "backend") if (value := getattr(options, name))}
    try:
        found = measured(counter(), options.seconds, **fields)
    except NoBoard as reason:
        print(f"nothing was measured: {reason}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
