"""Which engines are loaded: load once, share, evict the idle ones, restart after death. Knows no request's content.

One slot per (model file, backend, mode). A busy slot is never evicted. All methods belong to one asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from backends.contract import Job, StepRecord
from backends.errors import EngineDied
from backends.handle import EngineHandle
from localai.adapter_memory import AdapterMemory
from localai.breaker import Breaker
from localai.budget import gigabytes
from localai.choice import Choice
from localai.errors import EngineFailed, OutOfResources, Unavailable
from localai.fairness import Line, wish
from localai.messages import Waiting
from localai.orders import Plan

_log = logging.getLogger(__name__)

SlotKey = tuple[str, str, str]
_MEMORY_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A started engine, what to do if it dies while serving, and what had to be turned off for it to live here.

    `note_end` is for its end in peace.
    """

    handle: EngineHandle
    note_death: Callable[[EngineDied], None]
    notes: tuple[str, ...] = ()
    note_end: Callable[[], None] = lambda: None


PlanFor = Callable[[Choice, int], Plan]
"""Plan a load within so many free bytes; raises OutOfResources."""
Loader = Callable[[Choice, Plan, Callable[[str, float], None], Callable[[StepRecord], None]], Awaitable[Loaded]]
Budget = Callable[[], int]
"""Bytes that all engines together may take now."""


@dataclass(slots=True, eq=False)
class Slot:
    """One engine, loading or loaded. `users` are leases; times are monotonic seconds."""

    choice: Choice
    keep_alive: float
    line: Line
    plan: Plan | None = None
    handle: EngineHandle | None = None
    task: asyncio.Task[None] | None = None
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)
    stage: Waiting = Waiting("queued")
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    load_s: float = 0.0
    notes: tuple[str, ...] = ()
    note_end: Callable[[], None] = lambda: None
    adapters: AdapterMemory = field(default_factory=AdapterMemory)

    @property
    def charged(self) -> int:
        """Bytes that count as taken: what was planned, and the adapters loaded since."""
        return (self.plan.total if self.plan else 0) + self.adapters.total

    @property
    def key(self) -> SlotKey:
        return self.choice.key

    @property
    def loaded(self) -> bool:
        return self.handle is not None

    def say(self, stage: str, fraction: float | None) -> None:
        self.stage = Waiting(stage, fraction)
        self.changed.set()

    @property
    def idle(self) -> bool:
        return self.users == 0 and self.handle is not None

    @property
    def expires(self) -> float:
        return float("inf") if self.keep_alive < 0 else self.last_used + self.keep_alive


class Lease:
    """The right to use one engine until the lease is given back; while it is held the engine is not evicted."""

    def __init__(self, slot: Slot, choice: Choice, program: str) -> None:
        self._slot = slot
        self._choice = choice
        self._program = program
        self.load_s = 0.0

    @property
    def engine(self) -> EngineHandle:
        assert self._slot.handle is not None, "wait for load() first"
        return self._slot.handle

    @property
    def reason(self) -> str:
        """Why this engine serves, and with what turned off."""
        return "; ".join((self._choice.reason, *self._slot.notes))

    def place(self, job: Job) -> AbstractAsyncContextManager[float]:
        """The right to run `job`, given to programs in turn; the seconds that it was waited for."""
        return self._slot.line.place(self._program, wish(job), self.engine.info.n_seq)

    async def load(self) -> AsyncGenerator[Waiting, None]:
        """Yield what is being waited for until the engine is ready. Raises LocalaiError where it cannot be."""
        task = self._slot.task
        assert task is not None
        begun = time.monotonic()
        while not task.done():
            yield self._slot.stage
            self._slot.changed.clear()
            change = asyncio.ensure_future(self._slot.changed.wait())
            try:
                await asyncio.wait({task, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
            self.load_s = time.monotonic() - begun
        if task.cancelled():
            raise _stopping()
        task.result()


class Pool:
    """All engines of this daemon. `close` stops them."""

    def __init__(
        self,
        *,
        plan: PlanFor,
        load: Loader,
        budget: Budget,
        keep_alive: float,
        on_step: Callable[[StepRecord], None],
        queue: int = 256,
    ) -> None:
        self._plan = plan
        self._load = load
        self._budget = budget
        self._keep_alive = keep_alive
        self._on_step = on_step
        self._queue = queue
        self._slots: dict[SlotKey, Slot] = {}
        self._breakers: dict[SlotKey, Breaker] = {}
        self._freed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes that all engines together may take now, and those that count as taken."""
        return self._budget(), sum(slot.charged for slot in self._slots.values())

    @asynccontextmanager
    async def lease(
        self, choice: Choice, keep_alive: float | None = None, program: str = "", share: float = 0.0
    ) -> AsyncIterator[Lease]:
        """Hold the engine for `choice`; loading starts at once and is shared with whoever wants the same.

        `program` is who asks, `share` what this is of one request. Raises TooBusy where too much is under way.
        """
        if self._closing:
            raise _stopping()
        key = choice.key
        self._breakers.setdefault(key, Breaker()).check(time.monotonic())
        slot = await self._slot_for(key, choice)
        with slot.line.attending(program, share):
            if keep_alive is not None:
                slot.keep_alive = keep_alive
            slot.users += 1
            try:
                await self._fit_adapters(slot, choice)
                yield Lease(slot, choice, program)
            finally:
                slot.users -= 1
                slot.last_used = time.monotonic()
                await self._note_idle()

    async def _slot_for(self, key: SlotKey, choice: Choice) -> Slot:
        while (slot := self._slots.get(key)) is not None and choice.n_ctx:
            if slot.plan is None:
                await self._wait_until(partial(self._planned_or_gone, key, slot))
            elif choice.n_ctx > slot.plan.n_ctx:
                await self._outgrow(key, slot, choice.n_ctx)
            else:
                break
        if self._closing:
            raise _stopping()
        if slot is None:
            slot = Slot(choice, self._keep_alive, Line(self._queue))
            self._slots[key] = slot
            slot.task = asyncio.create_task(self._bring_up(key, slot))
            # A load that nobody waits for any more must not shout about its failure at exit.
            slot.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return slot

    async def _outgrow(self, key: SlotKey, slot: Slot, n_ctx: int) -> None:
        """Unload an engine whose context is too small, once it is idle; a smaller wish never gets here."""
        while self._slots.get(key) is slot and slot.users:
            await self._wait_until(lambda: self._slots.get(key) is not slot or slot.users == 0)
        if self._slots.get(key) is slot:
            await self._unload(key, slot, f"a context of {n_ctx} tokens was asked for")

    def _planned_or_gone(self, key: SlotKey, slot: Slot) -> bool:
        return slot.plan is not None or self._slots.get(key) is not slot

    async def _bring_up(self, key: SlotKey, slot: Slot) -> None:
        begun = time.monotonic()
        try:
            slot.plan = await self._make_room(slot)
            await self._announce()
            loaded = await self._load(slot.choice, slot.plan, slot.say, self._on_step)
        except BaseException as error:
            if isinstance(error, EngineFailed):
                self._breakers[key].note_death(time.monotonic())
            self._forget(key, slot)
            await self._announce()
            raise
        slot.load_s = time.monotonic() - begun
        slot.handle, slot.notes, slot.note_end = loaded.handle, loaded.notes, loaded.note_end
        slot.last_used = time.monotonic()

        def bury(death: EngineDied) -> None:
            _log.error("%s on %s: %s", slot.choice.model.id, slot.choice.backend, death.message)
            self._forget(key, slot)
            self._breakers[key].note_death(time.monotonic())
            loaded.note_death(death)
            announcement = asyncio.ensure_future(self._announce())
            self._background.add(announcement)
            announcement.add_done_callback(self._background.discard)

        if loaded.handle.died is not None:
            bury(loaded.handle.died)
        loaded.handle.on_death = bury
        await self._note_idle()

    # -- memory

    async def _make_room(self, slot: Slot) -> Plan:
        """Plan the load into what is free, unloading idle engines, oldest first; wait where only busy ones are left.

        An idle engine goes rather than that the new one's context shrinks; a busy one does not.
        """
        deadline = time.monotonic() + _MEMORY_WAIT_S
        # What does not fit into the whole budget is refused before anything else has to go.
        best = await self._planned(slot, self._budget())
        while True:
            others = [s for s in self._slots.values() if s is not slot and s.plan is not None]
            idle = sorted((s for s in others if s.idle), key=lambda s: s.last_used)
            free = self._budget() - sum(s.charged for s in others)
            try:
                plan = await self._planned(slot, free)
                patient = plan.weights and not best.weights and others and time.monotonic() < deadline
                # What would be paged only beside busy engines waits for these instead: it is many times faster then.
                if plan.as_good_as(best) or not (idle or patient):
                    return plan
            except OutOfResources:
                if not idle and (not others or time.monotonic() > deadline):
                    raise
            if idle:
                await self._unload(self._key_of(idle[0]), idle[0], "its memory is needed")
            else:
                slot.say("waiting for memory", None)
                await self._wait_until(partial(self._something_freed, others), deadline - time.monotonic())

    async def _planned(self, slot: Slot, free: int) -> Plan:
        # In a thread: it reads the file's header, vocabulary and all.
        return await asyncio.to_thread(self._plan, slot.choice, free - slot.adapters.total)

    async def _fit_adapters(self, slot: Slot, choice: Choice) -> None:
        """Charge the adapters of `choice` to its engine, unloading idle ones for them. Raises OutOfResources."""
        # While the engine is still to be planned, its plan leaves room for them.
        while slot.plan is not None and (growth := slot.adapters.growth(choice.adapters)):
            free = self._budget() - sum(s.charged for s in self._slots.values())
            if growth <= free:
                break
            idle = sorted((s for s in self._slots.values() if s.idle), key=lambda s: s.last_used)
            if not idle:
                need = f"the adapters of {choice.id} need {gigabytes(growth)}, {gigabytes(max(free, 0))} are free"
                raise OutOfResources(need, "unload other models, or raise the budget (ram)")
            await self._unload(self._key_of(idle[0]), idle[0], "its memory is needed")
        slot.adapters.use(choice.adapters)

    def _something_freed(self, others: list[Slot]) -> bool:
        return any(slot.idle or slot not in self._slots.values() for slot in others)

    def _key_of(self, slot: Slot) -> SlotKey:
        return next(key for key, value in self._slots.items() if value is slot)

    async def _unload(self, key: SlotKey, slot: Slot, why: str) -> None:
        self._forget(key, slot)
        if slot.task is not None and not slot.task.done():
            slot.task.cancel()
            await asyncio.wait({slot.task})
        if slot.handle is not None:
            size = gigabytes(slot.charged) if slot.plan else "an unknown amount"
            _log.info("unloading %s (%s): %s", slot.choice.model.id, size, why)
            await slot.handle.stop()
            slot.note_end()
        await self._announce()

    def _forget(self, key: SlotKey, slot: Slot) -> None:
        # Another engine may have taken the place while this one was waited for.
        if self._slots.get(key) is slot:
            del self._slots[key]

    async def unload(self, model: str) -> bool:
        """Unload a model by id from every backend, each once it is idle; False where it is not loaded."""
        found = [(key, slot) for key, slot in self._slots.items() if slot.choice.model.id == model]
        for key, slot in found:
            while slot.users:
                await self._wait_until(partial(_unused, slot))
            await self._unload(key, slot, "asked to")
        return bool(found)

    def resting(self, choice: Choice) -> bool:
        """Whether the engine for `choice` died too often lately to be started now."""
        breaker = self._breakers.get(choice.key)
        return breaker is not None and breaker.is_open(time.monotonic())

    # -- time

    async def _wait_until(self, holds: Callable[[], bool], seconds: float | None = None) -> None:
        async with self._freed:
            try:
                await asyncio.wait_for(self._freed.wait_for(holds), seconds)
            except TimeoutError:
                return

    async def _announce(self) -> None:
        async with self._freed:
            self._freed.notify_all()

    async def _note_idle(self) -> None:
        await self._announce()
        self._wake.set()
        if (self._reaper is None or self._reaper.done()) and not self._closing:
            self._reaper = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """Sleep until the next idle engine expires, unload it, and end when none is left that could."""
        while not self._closing:
            self._wake.clear()
            waiting = [s for s in self._slots.values() if s.idle and s.expires != float("inf")]
            if not waiting:
                return
            pause = min(s.expires for s in waiting) - time.monotonic()
            with suppress(TimeoutError):  # woken early: a lease has ended, perhaps with a shorter keep-alive
                await asyncio.wait_for(self._wake.wait(), max(0.0, pause))
            for key, slot in list(self._slots.items()):
                if slot.idle and slot.expires <= time.monotonic():
                    await self._unload(key, slot, f"idle for {slot.keep_alive:.0f} s")

    async def close(self, grace: float) -> None:
        """Take no new leases, give running ones `grace` seconds, then stop every engine."""
        self._closing = True
        await self._wait_until(lambda: all(s.users == 0 for s in self._slots.values()), grace)
        self._wake.set()
        await asyncio.gather(*(self._unload(key, slot, "stopping") for key, slot in list(self._slots.items())))
        await asyncio.gather(*self._background, *([self._reaper] if self._reaper else []))


def _unused(slot: Slot) -> bool:
    return slot.users == 0


def _stopping() -> Unavailable:
    return Unavailable("the daemon is stopping", "start it again: `localai start`")
