"""The arithmetic of the comparison with a board's own counter, on a trace like NVML's whose truth is known."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from localai.energy.sensor import Spec
from tests.energy_traces import Trace, Watching, meter, schedule
from tests.perf.energy_counter import NoBoard, account, counter

NVML = Spec(id="nvml0.energy", scope="gpu_board", method="counter", period_s=0.1, covers="", jitter_s=0.01)
NOTHING = {"attributed": 0.0, "idle": 0.0, "unattributed": 0.0}


def _booked(trace: Trace, end: float, gain: float = 1.0) -> tuple[list[dict[str, float | None]], dict[str, float]]:
    rng = random.Random(7)
    watching = Watching(trace, NVML, rng, unit=1e-3, wraps_at=0, gain=gain)
    book, closed = meter(trace, watching, poll=None, rng=rng, until=end)
    rows: list[dict[str, float | None]]
    rows = [{"joules": each.joules, "idle_joules": each.idle} for each in closed.values()]
    # An answer that was too short has no figures in its row.
    rows[0] = {"joules": None, "idle_joules": None}
    return rows, {"attributed": book.attributed, "idle": book.idle, "unattributed": book.leftover}


@pytest.mark.parametrize(
    ("gain", "holds"),
    [pytest.param(1.0, True, id="the same counter"), pytest.param(1.06, False, id="the ledger has 6 % more")],
)
def test_the_ledger_is_held_against_the_counter(gain: float, holds: bool) -> None:
    trace = schedule(random.Random(3), seconds=20.0, engines=2, jobs=12, idle_watts=60.0, watts=250.0)
    end = max(to for _, to in trace.jobs.values()) + 2.0
    rows, after = _booked(trace, end, gain)
    found = account(trace.joules(end), rows, NOTHING, after)
    assert found.told == pytest.approx(sum(after.values()))
    assert found.unsaid > 0
    assert found.off == pytest.approx(gain - 1.0, abs=0.015)
    assert found.holds is holds


def test_what_is_nobodys_fails_too() -> None:
    rows = [{"joules": 60.0, "idle_joules": 20.0}]
    found = account(100.0, rows, NOTHING, {"attributed": 80.0, "idle": 15.0, "unattributed": 5.0})
    assert (found.off, found.unattributed, found.unsaid, found.holds) == (0.0, 0.05, 0.0, False)


def test_without_a_board_it_says_so() -> None:
    with suppress(NoBoard):
        counter()
        pytest.skip("a board is here")
    command = [sys.executable, "-m", "tests.perf.energy_counter"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing was measured: " in done.stderr
