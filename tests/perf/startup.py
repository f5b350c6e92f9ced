"""What waiting costs: the start of a command, of the daemon, of the first answer; and what an idle daemon takes."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from localai.config import load
from localai.lifecycle import stop
from tests.perf.load import cpu_seconds
from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, play, report
from tests.perf.processes import Daemon, SseClient, model_path, prompt, whole

_QUESTION = "Say the word number {}."
_REPEATS = 10
_MIB = 2**20


def help_ms(daemon: Daemon) -> float:
    """`localai --help`, from exec to exit: the median of ten."""
    command = [sys.executable, "-P", "-m", "localai", "--help"]
    taken = []
    for _ in range(_REPEATS):
        begun = time.monotonic()
        subprocess.run(command, env=daemon.environment, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.monotonic() - begun)
    return 1000 * statistics.median(taken)


def ask(daemon: Daemon, number: int) -> float:
    """Seconds from exec of `localai ask` to its first byte of the answer."""
    command = [sys.executable, "-P", "-m", "localai", "ask", "--max-tokens", "8", "-m", daemon.model]
    begun = time.monotonic()
    with subprocess.Popen(
        [*command, _QUESTION.format(number)],
        env=daemon.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        first = child.stdout.read(1)
        taken = time.monotonic() - begun
        child.stdout.read()
    if not first or child.returncode != 0:
        raise SystemExit("`localai ask` gave no answer; `localai logs` in its home would tell why")
    return taken


def overhead_ms(daemon: Daemon, number: int) -> float:
    """What a warm `ask` adds to the daemon's own time to the first token."""
    added = []
    for turn in range(_REPEATS):
        taken = 1000 * ask(daemon, 1000 * number + turn)
        added.append(taken - _newest_ttft(daemon))
    return statistics.median(added)


def _newest_ttft(daemon: Daemon) -> float:
    """The row is written behind the answer, so it may take a moment to appear."""
    before = time.time() - 30.0
    for _ in range(100):
        row = daemon.newest(1)[0]
        if row["started"] > before and row["ttft_ms"] is not None and row["id"] != getattr(daemon, "_row", None):
            daemon.__dict__["_row"] = row["id"]
            return float(row["ttft_ms"])
        time.sleep(0.02)
    raise SystemExit("the ledger did not get the row of an answer")


def idle(process: psutil.Process, seconds: float) -> tuple[float, float]:
    """CPU of `process` in percent of a core while nothing is asked of it, and its main thread's wake-ups per second."""
    time.sleep(1.0)
    before, switches = cpu_seconds(process), process.num_ctx_switches()
    time.sleep(seconds)
    used, later = cpu_seconds(process) - before, process.num_ctx_switches()
    return max(0.0, 100 * used / seconds), (later.voluntary - switches.voluntary) / seconds


def memory_mib(process: psutil.Process) -> tuple[float, float]:
    """Resident and proportional set size."""
    full = process.memory_full_info()
    return full.rss / _MIB, getattr(full, "pss", full.rss) / _MIB


class Bench:
    """A round uses a fresh home throughout."""

    def __init__(self, options: argparse.Namespace, client: SseClient) -> None:
        self._options, self._client = options, client

    def round(self, number: int) -> Reading:
        daemon = Daemon(self._options)
        with daemon:
            found: Reading = {"daemon ready": daemon.ready_s, "help": help_ms(daemon)}
            found |= self._quiet(daemon.process, "without a model")
            self._decode_once(daemon, number)
            found |= self._quiet(daemon.process, "model loaded")
            engine = psutil.Process(daemon.engine()["pid"])
            found |= {f"engine {k}": v for k, v in self._quiet(engine, "idle").items()}
            ask(daemon, 1000 * number + 999)
            _newest_ttft(daemon)
            found["ask overhead"] = overhead_ms(daemon, number)
            daemon.stop()
            found["first answer, known device"] = self._cold(daemon, number)
        fresh = Daemon(self._options)
        found["first answer, new device"] = self._cold(fresh, number)
        fresh.__exit__(None, None, None)
        return found

    def _decode_once(self, daemon: Daemon, number: int) -> None:
        whole(self._client.play([daemon.request(prompt(32, number), 16)])[0])

    def _quiet(self, process: psutil.Process, state: str) -> dict[str, float]:
        cpu, wakes = idle(process, self._options.idle)
        rss, pss = memory_mib(process)
        return {f"cpu, {state}": cpu, f"wakes, {state}": wakes, f"rss, {state}": rss, f"pss, {state}": pss}

    def _cold(self, daemon: Daemon, number: int) -> float:
        """`localai ask` where no daemon runs: it starts one, which loads the model."""
        taken = ask(daemon, number)
        stop(load(environment=daemon.environment))
        return taken


def figures(rounds: Rounds) -> list[Figure]:
    found = [
        rounds.figure("help", "ms", at_most(250.0)),
        rounds.figure("daemon ready", "s", at_most(1.5)),
        rounds.figure("cpu, without a model", "% core", at_most(0.5)),
        rounds.figure("rss, without a model", "MiB", at_most(150e6 / _MIB)),
        rounds.figure("ask overhead", "ms", at_most(200.0)),
        rounds.figure("first answer, known device", "s"),
        rounds.figure("first answer, new device", "s"),
    ]
    shown = {figure.name for figure in found}
    units: dict[str, str] = {"cpu": "% core", "wakes": "1/s", "rss": "MiB", "pss": "MiB"}
    rest = [name for name in rounds.readings[0] if name not in shown]
    return found + [rounds.figure(n, units[n.removeprefix("engine ").partition(",")[0]]) for n in rest]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of watching idleness (default: %(default)s)")
    options = parser.parse_args()
    with SseClient() as client:
        rounds = play(options, Bench(options, client).round)
    facts: dict[str, Any] = {"model": model_path(options).name, "idle_s": options.idle}
    return report("startup", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
