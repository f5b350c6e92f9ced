"""Runs the measuring program on every backend that can open a model, pass by pass, and keeps what it brings.

Passes of the backends are interleaved by whoever calls, because a machine's speed drifts. What crashes or computes
something else is marked with the reason. Starts children and writes the store; decides nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import psutil

from backends.contract import Load
from backends.errors import BackendError, EngineDied
from backends.handle import EngineHandle
from backends.kv_frames import KvGrant
from localai.agreement import compare
from localai.calibration_store import CalibrationStore, Record, Scores, Subject, identity
from localai.choice import Choice
from localai.errors import EngineFailed, ModelBroken
from localai.ladder import Rung, climb
from localai.local_model import LocalModel
from localai.measuring import OVERDUE, Pass, Steps, measure
from localai.offers import backend, build_label, offers
from localai.orders import Orders, shape
from localai.readings import Phase, Reading, Shape
from localai.tested import TestedSettings, Verdict

_log = logging.getLogger(__name__)

PASSES = 3
_N_CTX = 2048
_N_SEQ = 16
_MEMORY_SLACK = 256 * 2**20
_DEATHS = 3
_LOOK_S = 0.5
_BESIDE = 0.5
"""Cores that others take, from which on a pass may be late for their sake."""
_AGAIN_S = 3600.0
DISTURBED = 0.3
"""Cores that other programs took, from which on a pass says little."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model that is to be measured."""

    choice: Choice
    subject: Subject

    def __str__(self) -> str:
        return self.choice.backend + (f" ({self.choice.mode})" if self.choice.mode else "")


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the program on one child, which may take `memory` bytes."""

    candidate: Candidate
    order: Load
    sizes: Shape
    threads: int
    memory: int
    whole: bool
    score: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: after `pass_s` a pass takes up no further job, after `enough_s` spent on a backend none begins (slower
    ones get fewer), and after `most_s` an engine is given up."""

    pass_s: float = 9.0
    enough_s: float = 16.0
    most_s: float = 28.0


class Laboratory:
    """Measures for one configuration on one device."""

    def __init__(
        self, orders: Orders, tested: TestedSettings, store: CalibrationStore, limits: Limits | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._orders = orders
        self._tested = tested
        self.store = store

    def candidates(self, model: LocalModel, *, every: bool = False) -> list[Candidate]:
        """The backends that can open `model` here, the reference first; `every` adds the modes that few want.

        Raises OSError.
        """
        return [self._candidate(model, name, mode) for name, mode in _ways(model, every=every)]

    def next(self, model: LocalModel, *, every: bool = False, without: Set[Subject] = frozenset()) -> Candidate | None:
        """The candidate whose next pass is due, None where all but `without` is known. Raises LocalaiError, OSError."""
        due = [
            (0 if record is None or _stale(record) else record.passes, place, candidate)
            for place, candidate in enumerate(self.candidates(model, every=every))
            if candidate.subject not in without and not self._done(record := self.store.record(candidate.subject))
        ]
        return min(due, key=lambda item: item[:2])[2] if due else None

    async def run_pass(self, candidate: Candidate, free: int, *, most_foreign: float = float("inf")) -> Record | None:
        """Measure once more within `free` bytes of memory, and keep it; None where the machine was disturbed.

        A backend that fails is kept with its verdict. Waits while another process measures. Raises OutOfResources where
        the model does not fit now.
        """
        async with alone(self.store):
            return await self._measured(candidate, free, most_foreign)

    async def _measured(self, candidate: Candidate, free: int, most_foreign: float) -> Record | None:
        plan = self._orders.plan(replace(candidate.choice, n_ctx=_N_CTX), free, self._orders.kv_type)
        order = msgspec.structs.replace(self._orders.order(candidate.choice, plan), n_seq=_N_SEQ, kv=KvGrant())
        known = self.store.record(candidate.subject)
        sizes = shape(candidate.choice.model)
        begun, meter = time.monotonic(), _Foreign()
        passes: list[Pass] = []
        verdict = ""
        try:
            scored = known is not None and known.scores is not None
            for threads, whole in self._thread_counts(candidate, known):
                # Where all threads were too slow beside others for the text, fewer may be fast enough.
                score = not scored and not any(each.scores for each in passes)
                run = _Run(candidate, order, sizes, threads, plan.total, whole, score)
                passes.append(await self._pass(run))
        except (EngineFailed, ModelBroken, BackendError) as error:
            verdict = error.message
            _log.warning("%s is not used for %s: %s", candidate, candidate.choice.model.id, error.message)
        foreign = meter.read()
        if disturbed(verdict, foreign, most_foreign):
            return None
        return self._keep(candidate, passes, verdict, time.monotonic() - begun, foreign)

    def log_file(self, model: LocalModel) -> Path:
        return self._orders.log_file(model)

    def _done(self, record: Record | None) -> bool:
        if record is None or _stale(record):
            return False
        return record.passes >= PASSES or record.spent_s > self._limits.enough_s or bool(record.verdict)

    def _candidate(self, model: LocalModel, name: str, mode: str) -> Candidate:
        choice = Choice(model, name, 0, "", mode)
        subject = Subject(self._orders.device.fingerprint, identity(model), name, build_label(name), mode)
        return Candidate(choice, subject)

    def _thread_counts(self, candidate: Candidate, known: Record | None) -> Iterator[tuple[int, bool]]:
        """Counts to measure in this pass, each with whether the whole program runs."""
        most = self._orders.threads
        yield most, True
        name = candidate.choice.backend
        if most > 1 and known is None and name != "echo" and backend(name).threads:
            yield max(1, most // 2), False

    async def _pass(self, run: _Run) -> Pass:
        """One run of the program. A death is noted for the setting; if that leaves others, they are tried."""
        # With all rates given the child measures none itself, and begins with the count that is wanted.
        rates = dict.fromkeys(range(1, run.threads), 1.0) | {run.threads: 2.0}
        order = msgspec.structs.replace(run.order, threads=run.threads, rates=rates)
        choice = run.candidate.choice
        key, log = self._orders.key(choice), self._orders.log_file(choice.model)
        rungs: list[Rung] = []

        async def start(steps: Steps) -> EngineHandle:
            rung = await climb(
                order, key, self._tested, log=log, on_stage=_ignore, on_step=steps, on_pid=steps.note_pid
            )
            rungs.append(rung)
            return rung.handle

        for _ in range(_DEATHS):
            try:
                return await measure(
                    start,
                    partial(_reading, run.candidate.subject, self._orders.kv_type, run.sizes),
                    threads=run.threads,
                    memory=int(1.5 * run.memory) + _MEMORY_SLACK,
                    seconds=self._limits.most_s,
                    enough=self._limits.pass_s,
                    whole=run.whole,
                    score=run.score,
                )
            except EngineDied as death:
                rung = rungs[-1]
                self._tested.record(rung.key, rung.setting, Verdict("died", death.cause, death.step))
                cause = death.cause
        raise EngineFailed(f"its process died {_DEATHS} times while it was measured ({cause})")

    def _keep(self, candidate: Candidate, passes: list[Pass], verdict: str, spent: float, foreign: float) -> Record:
        subject = candidate.subject
        scores = next((each.scores for each in passes if each.scores is not None), None)
        verdict = verdict or next((each.odd for each in passes if each.odd), "")
        reference = self._reference(subject)

        def edit(old: Record) -> Record:
            if _stale(old):
                old = Record(subject=subject, name=old.name)
            fidelity, wrong = old.fidelity, ""
            if scores is not None:
                fidelity, wrong = compare(scores, reference)
            return replace(
                old,
                name=candidate.choice.model.id,
                passes=old.passes + 1,
                readings=(*old.readings, *(reading for each in passes for reading in each.readings)),
                spent_s=round(old.spent_s + spent, 2),
                rss=max(old.rss, *(each.rss for each in passes), 0),
                scores=scores or old.scores,
                fidelity=fidelity,
                verdict=verdict or wrong,
                foreign=round((old.foreign * old.passes + foreign) / (old.passes + 1), 2),
                at=round(time.time(), 1),
            )

        return self.store.update(subject, candidate.choice.model.id, edit)

    def _reference(self, subject: Subject) -> Scores | None:
        """How llama.cpp reads the text with the same weights."""
        if subject.backend == "llama.cpp" and not subject.mode:
            return None
        found = [r for r in self.store.records(subject.device, subject.model) if r.subject.backend == "llama.cpp"]
        return next((record.scores for record in found if record.scores and not record.verdict), None)


@asynccontextmanager
async def alone(store: CalibrationStore) -> AsyncIterator[None]:
    """Wait until nobody else measures: two that do so at the same time would measure each other."""
    with store.measuring_lock.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOOK_S)
        yield


def _ways(model: LocalModel, *, every: bool) -> list[tuple[str, str]]:
    if model.format == "echo":
        return [("echo", "")]
    found = [offer.backend for offer in offers(model) if not offer.problem]
    return [(name, mode) for name in found for mode in (backend(name).modes if every else backend(name).tried)]


def _stale(record: Record) -> bool:
    """Measured beside other programs, and long enough ago that they may have ended."""
    return record.foreign > DISTURBED and time.time() - record.at > _AGAIN_S


def _reading(
    subject: Subject,
    kv_type: str,
    sizes: Shape,
    threads: int,
    phase: Phase,
    tokens: int,
    depth: int,
    sequences: int,
    seconds: float,
    cpu_s: float,
) -> Reading:
    return Reading(
        backend=subject.backend,
        build=subject.build,
        mode=subject.mode,
        threads=threads,
        kv_type=kv_type,
        shape=sizes,
        phase=phase,
        tokens=tokens,
        depth=depth,
        sequences=sequences,
        seconds=round(seconds, 7),
        cpu_s=round(cpu_s, 7),
        at=round(time.time(), 1),
    )


def disturbed(verdict: str, foreign: float, most_foreign: float) -> bool:
    """Whether a pass tells nothing, as other programs took so many cores: no engine is to blame for being late then.

    One that died is, whatever else ran.
    """
    if verdict:
        return verdict.startswith(OVERDUE) and foreign > min(most_foreign, _BESIDE)
    return foreign > most_foreign


class _Foreign:
    """Cores that neither this process nor its children took since this was made."""

    def __init__(self) -> None:
        self._before = _cpu_seconds()
        self._begun = time.monotonic()

    def read(self) -> float:
        own, busy = (now - then for now, then in zip(_cpu_seconds(), self._before, strict=True))
        return max(0.0, (busy - own) / max(1e-3, time.monotonic() - self._begun))


def _cpu_seconds() -> tuple[float, float]:
    """Of this process with the children that it has seen end, and of the whole machine."""
    own, all_ = os.times(), psutil.cpu_times()
    busy = sum(all_) - all_.idle - getattr(all_, "iowait", 0.0) - getattr(all_, "guest", 0.0)
    return own.user + own.system + own.children_user + own.children_system, busy


def _ignore(_: str, __: float) -> None:
    pass
