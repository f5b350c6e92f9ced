"""LoRA adapters: what a change between two costs, what one base with two adapters takes against two bases, and how
much traffic gets through where streams are under different adapters.

The adapters are random, of rank 16 over all attention and feed-forward matrices of the model's layers.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil

from backends.contract import Adapter, Load, Sampling, StepRecord
from backends.engine import Slice
from backends.handle import EngineHandle
from backends.llama_cpp import LlamaCppEngine
from tests.engine_runs import Answer, ask, engine
from tests.lora_files import write_lora
from tests.perf.measure import Figure, Reading, Rounds, arguments, at_least, at_most, play, report
from tests.perf.processes import model_path, prompt

_MIB = 2**20
_CHANGES = 40
_STREAMS = 6
_RANK = 16
_NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

Adapters = tuple[Adapter, ...]


def random_lora(path: Path, base: Path, seed: int) -> Path:
    """Small enough in effect that answers stay sensible; the time that it takes does not depend on its values."""
    rng, pairs = np.random.default_rng(seed), {}
    for tensor in gguf.GGUFReader(base).tensors:
        if any(tensor.name.endswith(f".{name}.weight") for name in _NAMES):
            inputs, outputs = (int(side) for side in tensor.shape)
            a = rng.standard_normal((_RANK, inputs)).astype(np.float32)
            pairs[tensor.name] = (a, 1e-4 * rng.standard_normal((outputs, _RANK)).astype(np.float32))
    return write_lora(path, pairs, half=True)


def order(path: Path, threads: int) -> Load:
    return Load(backend="llama.cpp", path=str(path), n_ctx=4096, threads=threads, extra_bufts=False)


class Changes:
    """An engine in this process: steps of one token that change the adapter, and such that do not."""

    def __init__(self, load: Load, one: Adapter, two: Adapter) -> None:
        self._engine = LlamaCppEngine(load, lambda stage, fraction: None)
        self._sides: tuple[Adapters, Adapters] = ((one,), (two,))
        self._versions = 0

    def read(self) -> Reading:
        for seq, adapters in enumerate(self._sides):
            self._engine.drop(seq)
            self._engine.adapt(adapters)
            self._engine.step([Slice(seq, prompt(64, seq), 0, "last")])
        staying = [self._step(1, 64 + place) for place in range(_CHANGES)]
        changing = [self._step(place % 2, 64 + place // 2 + _CHANGES * (place % 2)) for place in range(_CHANGES)]
        # Another stamp makes the file a new one to the engine.
        self._versions += 1
        fresh = Adapter(self._sides[0][0].path, 1.0, str(self._versions))
        begun = time.perf_counter()
        self._engine.adapt((fresh,))
        first_use = time.perf_counter() - begun
        stay = statistics.median(staying)
        return {
            "step": 1000 * stay,
            "change": 1000 * (statistics.median(changing) - stay),
            "first use": 1000 * first_use,
        }

    def _step(self, seq: int, pos: int) -> float:
        begun = time.perf_counter()
        self._engine.adapt(self._sides[seq])
        self._engine.step([Slice(seq, [1000 + pos], pos, "last")])
        return time.perf_counter() - begun


class Traffic:
    """Streams at once through one engine child: all under the same adapters, or each under others."""

    def __init__(self, handle: EngineHandle, steps: list[StepRecord], groups: dict[str, list[Adapters]]) -> None:
        self._handle = handle
        self._steps = steps
        self._groups = groups
        self._seed = 0

    async def read(self) -> Reading:
        reading: Reading = {}
        for name, adapters in self._groups.items():
            self._steps.clear()
            reading[name] = await self._rate(adapters)
            changes = [step.switch_s for step in self._steps if step.switch_s is not None]
            reading[f"{name}: changes"] = len(changes)
            reading[f"{name}: changing"] = sum(changes) / sum(step.t1 - step.t0 for step in self._steps)
        return reading

    async def _rate(self, adapters: list[Adapters]) -> float:
        """Tokens per second of all streams together."""
        self._seed += 1
        begun = time.perf_counter()
        jobs = [self._ask(number, adapters[number % len(adapters)]) for number in range(_STREAMS)]
        answers = await asyncio.gather(*jobs)
        tokens = sum(len(answer.ids()) for answer in answers)
        return tokens / (time.perf_counter() - begun)

    def _ask(self, number: int, adapters: Adapters) -> Any:
        tokens = prompt(48, 100 * self._seed + number)
        fields: dict[str, Any] = {"max_tokens": 64, "ignore_eos": True, "sampling": Sampling(temperature=0.0)}
        return ask(self._handle, tokens, adapters=adapters, **fields)


def rss(*handles: EngineHandle) -> float:
    return sum(psutil.Process(handle.pid).memory_info().rss for handle in handles) / _MIB


async def warm(handle: EngineHandle, *groups: Adapters) -> Answer:
    for adapters in groups:
        answer = await ask(handle, prompt(64, 1), max_tokens=8, adapters=adapters)
    return answer


async def prepared(stack: AsyncExitStack, folder: Path, load: Load, sides: list[Adapters]) -> tuple[Traffic, Reading]:
    """The engine that takes the traffic, and what memory it and two engines of their own take, in MiB."""
    steps: list[StepRecord] = []
    handle = await stack.enter_async_context(engine(load, folder, steps))
    await warm(handle, ())
    alone = rss(handle)
    await warm(handle, *sides)
    memory = {"base": alone, "base and two adapters": rss(handle)}
    # Two merged models are two files: their pages are not shared.
    second = Path(shutil.copy(load.path, folder / "second.gguf"))
    async with engine(order(second, load.threads), folder) as other:
        await warm(other, ())
        memory["two bases"] = alone + rss(other)
    groups: dict[str, list[Adapters]] = {
        "base, token/s": [()],
        "one, token/s": [sides[0]],
        "two, token/s": sides,
        "base and two, token/s": [(), *sides],
    }
    return Traffic(handle, steps, groups), memory


def figures(rounds: Rounds) -> list[Figure]:
    return [
        rounds.figure("change", "ms", at_most(50)),
        rounds.figure("step", "ms"),
        rounds.figure("first use", "ms"),
        rounds.ratio("memory: base and two adapters / two bases", "base and two adapters", "two bases", at_most(0.7)),
        rounds.figure("base", "MiB"),
        rounds.figure("base and two adapters", "MiB"),
        rounds.figure("two bases", "MiB"),
        rounds.ratio("an adapter / the base", "one, token/s", "base, token/s"),
        rounds.ratio("two adapters mixed / one", "two, token/s", "one, token/s"),
        rounds.ratio("base and two mixed / one", "base and two, token/s", "one, token/s", at_least(0.3)),
        rounds.figure("base and two, token/s", "token/s"),
        rounds.figure("base and two, token/s: changes", ""),
        rounds.figure("base and two, token/s: changing", "of time"),
    ]


def run(options: argparse.Namespace, folder: Path) -> int:
    base = model_path(options)
    files = [random_lora(folder / f"{seed}.gguf", base, seed) for seed in (1, 2)]
    one, two = (Adapter(str(path)) for path in files)
    load = order(base, options.threads)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        traffic, memory = runner.run(prepared(stack, folder, load, [(one,), (two,)]))
        changes = Changes(load, one, two)
        rounds = play(options, lambda _: changes.read() | memory | runner.run(traffic.read()))
        runner.run(stack.aclose())
    return report("adapters", options, rounds, figures(rounds), adapter_bytes=files[0].stat().st_size, rank=_RANK)


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory(prefix="localai-perf-") as folder:
        return run(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
