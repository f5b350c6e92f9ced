"""Churn of two engines over small KV budgets, looking all the while for a byte over a cap.

    python -m tests.soak.kv_budgets [--minutes 30]

Fresh and returning prompts run on llama.cpp and ONNX Runtime in one daemon, a third of them cut off. After half of the
time the daemon is started again with half of the caps. Over a cap by more than one block, ever, is a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil

from backends.kv import upkeep
from tests.perf.processes import Daemon, SseClient, prompt

ENGINES = ("llama.cpp", "onnx:kv8")
_BLOCK = 256 * 23_040 + 4096
"""Bytes of the larger engine's block on the SSD."""
_RAM, _SSD = 64 * 2**20, 96 * 2**20
_AT_ONCE = 4
_WAVE = 24


@dataclass
class Peaks:
    """The most bytes seen in each tier, over its cap where above 0, and the most memory of all processes."""

    ssd: int = 0
    ram: int = 0
    rss: int = 0
    looks: int = 0


class Watch:
    """Looks at the files and at what the children report, again and again, until it is left."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._folder = daemon.home / "cache" / "kv"
        self.peaks = Peaks()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.peaks.ssd = max(self.peaks.ssd, self._on_disk())
            self.peaks.looks += 1
            if self.peaks.looks % 5 == 0:
                engines = self._daemon.client.get("/localai/status")["engines"]
                held = [engine["kv_cache"]["ram_bytes"] for engine in engines if engine.get("kv_cache")]
                self.peaks.ram = max(self.peaks.ram, sum(held))
                process = self._daemon.process
                family = [process, *process.children(recursive=True)]
                self.peaks.rss = max(self.peaks.rss, sum(_rss(member) for member in family))

    def _on_disk(self) -> int:
        held = 0
        for path in self._folder.rglob("*"):
            # A file may go between being listed and being looked at.
            with contextlib.suppress(FileNotFoundError):
                held += path.stat().st_size if ".kv" in path.name else 0
        return held


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class Churn:
    """The requests: half continue one of twelve conversations, half are new."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._chats = [prompt(300 + 60 * number, number) for number in range(12)]
        self.answers = self.cut = self.cached = 0

    def wave(self, daemon: Daemon, client: SseClient) -> None:
        answers = client.play([self._request(daemon) for _ in range(_WAVE)], _AT_ONCE)
        for answer in answers:
            if answer["stopped"]:
                self.cut += 1
                continue
            if not answer["done"]:
                raise SystemExit(f"a request failed: {answer['error'] or answer['failure']}")
            self.answers += 1
            self.cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def _request(self, daemon: Daemon) -> dict[str, Any]:
        draw = self._draw
        if draw.random() < 0.5:
            number = draw.randrange(len(self._chats))
            tokens = self._chats[number] = (self._chats[number] + prompt(20, draw.randrange(10**9)))[:1500]
        else:
            tokens = prompt(draw.randint(30, 900), draw.randrange(10**9))
        cut: dict[str, Any] = {"stop_s": draw.uniform(0.0, 2.0)} if draw.random() < 1 / 3 else {}
        return daemon.request(tokens, draw.randint(1, 24), backend=draw.choice(ENGINES), **cut)


def part(options: Any, daemon: Daemon, caps: tuple[int, int], churn: Churn, minutes: float) -> None:
    """One life of the daemon under `caps`; raises SystemExit where they do not hold."""
    ram, ssd = caps
    daemon.environment |= {"LOCALAI_KV_RAM": str(ram), "LOCALAI_KV_SSD": str(ssd)}
    daemon.start()
    try:
        until = time.monotonic() + 60 * minutes
        with SseClient() as client:
            # A cap that shrank is met once the daemon has swept; from then on nothing may be over.
            churn.wave(daemon, client)
            with Watch(daemon) as watch:
                while time.monotonic() < until:
                    churn.wave(daemon, client)
    finally:
        daemon.stop()
    peaks = watch.peaks
    print(
        f"caps {ram / 2**20:.0f} MiB RAM, {ssd / 2**20:.0f} MiB SSD: at most {peaks.ram / 2**20:.1f} and "
        f"{peaks.ssd / 2**20:.1f} MiB in {peaks.looks} looks; all processes at most {peaks.rss / 2**20:.0f} MiB",
        file=sys.stderr,
        flush=True,
    )
    if peaks.ssd > ssd + _BLOCK or peaks.ram > ram + _BLOCK:
        raise SystemExit("over a cap by more than one block")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(model=None)
    options = parser.parse_args()
    churn = Churn(options.seed)
    daemon = Daemon(options)
    try:
        for share in (1, 2):
            part(options, daemon, (_RAM // share, _SSD // share), churn, options.minutes / 2)
        found = upkeep.sweep(daemon.home / "cache" / "kv", read=True)
    finally:
        daemon.__exit__(None, None, None)
    if found.bad or found.missing or found.orphans:
        raise SystemExit(f"left behind: {found}")
    print(
        f"{churn.answers} answers, {churn.cut} cut off, {churn.cached} tokens out of the cache; "
        f"{found.blocks} blocks left, all sound",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
