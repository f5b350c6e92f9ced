"""Measures one engine child with ordinary jobs: how fast each kind of step is, how it reads a text, what it takes.

A way to start the child enters, readings leave. Its step records tell the times, so what is measured is what is
served. The sizes of the jobs follow the speed of the child, so that a slow one ends in time too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import psutil

from backends.contract import Job, PromptLogprobs, Sampling, StepRecord, Token
from backends.handle import EngineHandle
from localai.agreement import PROSE, scores_of
from localai.budget import gigabytes
from localai.calibration_store import Scores
from localai.errors import EngineFailed
from localai.readings import Phase, Reading

_SHORT = 32
_DEEP = (1024, 512, 256, 128)
_BEHIND = 256
_EMBEDDED = 128
_SCORED = 256
_DECODES = 20
_TOGETHER = 8
_FAR = 192
"""Tokens of depth from which on a step counts as one far behind the beginning."""
_WARM = 2
"""Decode steps after a prefill that are left out: caches and thread pools are still filling."""
_DECODE_S, _DEEP_S, _SCORE_S = 1.5, 5.0, 12.0
"""Most seconds for a row of decode steps, the deep prompt, and the scored text."""
OVERDUE = "it was not done within"
"""How the reason begins where time ran out."""
_LOOK_S = 0.2

_GREEDY = Sampling(temperature=0.0)


@dataclass(slots=True)
class Steps:
    """The step records of a child, to be given to it as `on_step`; `on_pid` likewise."""

    taken: list[StepRecord] = field(default_factory=list)
    pid: int = 0

    def __call__(self, record: StepRecord) -> None:
        self.taken.append(record)

    def note_pid(self, pid: int) -> None:
        self.pid = pid


Start = Callable[[Steps], Awaitable[EngineHandle]]
"""Start a child whose step records and process id go into `Steps`."""
Make = Callable[[int, Phase, int, int, int, float, float], Reading]
"""Threads, phase, tokens, depth, sequences, seconds, CPU seconds -> the reading of this subject."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one run of the program brought. `odd` says what is wrong with the engine, '' for nothing."""

    readings: tuple[Reading, ...]
    scores: Scores | None
    rss: int
    spent_s: float
    odd: str = ""


async def measure(
    start: Start, make: Make, *, threads: int, memory: int, seconds: float, enough: float, whole: bool, score: bool
) -> Pass:
    """Run the program on a new child: all of it where `whole`, and the text where `score`.

    After `enough` seconds it takes up nothing new. The child is gone when this returns or raises. Raises EngineFailed
    where it takes more than `memory` bytes or `seconds`, LocalaiError or BackendError where it dies.
    """
    begun = time.monotonic()
    steps = Steps()
    work = asyncio.create_task(_program(start, steps, make, threads, whole, score, begun + enough))
    watch = asyncio.create_task(_watch(steps, memory, seconds))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise EngineFailed(watch.result(), "it is not used for this model on this device")
        return work.result()
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _watch(steps: Steps, memory: int, seconds: float) -> str:
    """Return why the child must end, when it must."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (held := resident(steps.pid)) > memory:
            return f"it took {gigabytes(held)} of memory, {gigabytes(memory)} were allowed"
        await asyncio.sleep(_LOOK_S)
    return f"{OVERDUE} {seconds:.0f} s"


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 where there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


async def _program(start: Start, steps: Steps, make: Make, threads: int, whole: bool, score: bool, end: float) -> Pass:
    begun = time.monotonic()
    async with _running(start, steps) as handle:
        bench = _Bench(handle, steps, make)
        loaded = time.monotonic() - begun
        bench.readings.append(make(threads, "load", 0, 0, 1, loaded, _cpu_seconds(steps.pid)))
        ids = await handle.tokenize(PROSE, special=False, add_bos=True)
        scores, odd = None, ""
        if "generate" in handle.info.capabilities:
            await bench.warm(ids)
            await bench.answer(ids, 1, _SHORT)
            if score:
                scores, odd = await bench.score(ids)
            if whole and not odd:
                await bench.rest(ids, end)
        if whole and "embed" in handle.info.capabilities and time.monotonic() < end:
            await bench.embed(ids)
        rss = max(handle.rss, resident(steps.pid))
        return Pass(tuple(bench.readings), scores, rss, time.monotonic() - begun, odd)


@asynccontextmanager
async def _running(start: Start, steps: Steps) -> AsyncIterator[EngineHandle]:
    handle = await start(steps)
    try:
        yield handle
    except BaseException:
        # Whoever waits for the machine must not wait for a goodbye.
        handle.kill()
        raise
    finally:
        await handle.stop()


class _Bench:
    """Jobs for one child, and the readings that they gave."""

    def __init__(self, handle: EngineHandle, steps: Steps, make: Make) -> None:
        self.readings: list[Reading] = []
        self._handle = handle
        self._steps = steps
        self._make = make
        self._turn = 0

    async def rest(self, ids: Sequence[int], end: float) -> None:
        """The other kinds of steps, the dearest ones last; stops at `end`."""
        for task in (self._together, self._deep):
            if time.monotonic() < end:
                await task(ids)

    async def answer(self, ids: Sequence[int], sequences: int, length: int, behind: int = 0) -> None:
        """A prompt of `length` tokens that no cache holds, answered by `sequences`; then `behind` tokens more."""
        prompt = self._fresh(ids, length + behind)
        await self._run(_job(prompt[:length], _DECODES, sequences))
        self._keep_prefill()
        self._keep_decode(sequences)
        if behind:
            await self._run(_job(prompt, 1, 1))
            self._keep_prefill()

    async def warm(self, ids: Sequence[int]) -> None:
        """A first answer, which finds pages not read and threads not started yet."""
        await self._run(_job(self._fresh(ids, 8), 3, 1))

    async def embed(self, ids: Sequence[int]) -> None:
        await self._run(Job(id=0, kind="embed", tokens=self._fresh(ids, _EMBEDDED)))
        self._keep("embed", [record for record in self._steps.taken if record.shares])

    async def _together(self, ids: Sequence[int]) -> None:
        await self.answer(ids, min(_TOGETHER, self._handle.info.n_seq), _SHORT)

    async def _deep(self, ids: Sequence[int]) -> None:
        """The longest prompt that this engine takes in in time, then its steps at that depth."""
        each = min(r.seconds / r.tokens for r in self.readings if r.phase == "prefill")
        room = self._handle.info.n_ctx - _BEHIND - _DECODES
        fitting = [length for length in _DEEP if length * each < _DEEP_S and length <= room]
        if fitting:
            await self.answer(ids, 1, fitting[0], min(_BEHIND, fitting[0]))

    async def score(self, ids: Sequence[int]) -> tuple[Scores | None, str]:
        """The engine's reading of the text, and what is wrong with it."""
        prefill = [r.seconds / r.tokens for r in self.readings if r.phase == "prefill"]
        able = "prompt_logprobs" in self._handle.info.capabilities
        length = min(_SCORED, len(ids), self._handle.info.n_ctx - 1)
        if not able or not prefill or length * prefill[0] > _SCORE_S:
            return None, ""
        job = Job(id=0, tokens=list(ids[:length]), max_tokens=0, prompt_logprobs=1)
        scored = [token for part in await self._run(job) for token in part.tokens]
        scores = scores_of(ids[:length], scored)
        return scores, "" if scores else "it gives probabilities that are not numbers"

    def _fresh(self, ids: Sequence[int], length: int) -> list[int]:
        """`length` tokens of the text, begun elsewhere each time, so that no cache knows them."""
        self._turn += 1
        begin = (37 * self._turn) % len(ids)
        turned = [*ids[begin:], *ids[:begin]]
        return (turned * (1 + length // len(turned)))[:length]

    async def _run(self, job: Job) -> list[PromptLogprobs]:
        """Run `job` to its end, or until its answer has taken long enough."""
        self._steps.taken.clear()
        scored: list[PromptLogprobs] = []
        first: float | None = None
        async with aclosing(self._handle.run(job)) as events:
            async for event in events:
                if isinstance(event, PromptLogprobs):
                    scored.append(event)
                if isinstance(event, Token):
                    first = first or time.monotonic()
                    if time.monotonic() - first > _DECODE_S:
                        break
        return scored

    def _keep_prefill(self) -> None:
        """Readings for the steps at the beginning of the context, and for those far behind it."""
        found = [r for r in self._steps.taken if r.shares and r.shares[0].prefilled]
        for far in (False, True):
            self._keep("prefill", [r for r in found if (_depth(r) >= _FAR) == far])

    def _keep_decode(self, sequences: int) -> None:
        found = [r for r in self._steps.taken if len(r.shares) == sequences and all(s.decoded for s in r.shares)]
        useful = found[_WARM:] if len(found) > 2 * _WARM else found
        for threads, part in _by_threads(useful).items():
            depth = int(median(_depth(r) for r in part))
            seconds, cpu = median(r.t1 - r.t0 for r in part), median(r.cpu_s for r in part)
            self.readings.append(self._make(threads, "decode", 1, depth, sequences, seconds, cpu))

    def _keep(self, phase: Phase, records: Sequence[StepRecord]) -> None:
        """The mean step of `records`, so that tokens and seconds add up to what was spent."""
        for threads, part in _by_threads(records).items():
            count = len(part)
            tokens = sum(share.prefilled for r in part for share in r.shares) / count
            depth = sum(_depth(r) for r in part) / count
            seconds, cpu = sum(r.t1 - r.t0 for r in part) / count, sum(r.cpu_s for r in part) / count
            self.readings.append(self._make(threads, phase, round(tokens), round(depth), 1, seconds, cpu))


def _by_threads(records: Sequence[StepRecord]) -> dict[int, list[StepRecord]]:
    """The child may change its thread count when a neighbour takes a core; each step counts for its own."""
    found: dict[int, list[StepRecord]] = {}
    for record in records:
        found.setdefault(record.threads, []).append(record)
    return found


def _job(tokens: list[int], answer: int, sequences: int) -> Job:
    return Job(id=0, tokens=tokens, n=sequences, max_tokens=answer, ignore_eos=True, sampling=_GREEDY)


def _depth(record: StepRecord) -> int:
    """Tokens that the first sequence held before the step."""
    share = record.shares[0]
    return share.context - share.prefilled - share.decoded


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
