"""Which engines are loaded: load once, share, evict the idle ones, restart after death. Knows no request's content.

One slot per (model file, backend, mode). A busy slot is never evicted. All methods belong to one asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from backends.contract import StepRecord
from backends.errors import EngineDied
from localai.breaker import Breaker
from localai.budget import gigabytes
from localai.choice import Choice
from localai.errors import EngineFailed, LocalaiError, OutOfResources
from localai.fairness import Line
from localai.orders import Plan
from localai.residence import Ahead, Residence
from localai.slot import FOREVER, Lease, Loaded, Slot, SlotKey, stopping

_log = logging.getLogger(__name__)

_MEMORY_WAIT_S = 120.0
_USUAL_S = 300.0
"""Until the first use of an engine has ended, where keep-alive is learned."""


PlanFor = Callable[[Choice, int], Plan]
"""Plan a load within so many free bytes; raises OutOfResources."""
Loader = Callable[[Choice, Plan, Callable[[str, float], None], Callable[[StepRecord], None]], Awaitable[Loaded]]
Budget = Callable[[], int]
"""Bytes that all engines together may take now."""


class Pool:
    """All engines of this daemon. `close` stops them."""

    def __init__(
        self,
        *,
        plan: PlanFor,
        load: Loader,
        budget: Budget,
        keep_alive: float | Residence,
        on_step: Callable[[StepRecord], None],
        queue: int = 256,
    ) -> None:
        """`keep_alive` is fixed, or what learns it."""
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
        self._reaps_at = FOREVER
        self._reaper: asyncio.Task[None] | None = None
        self._ahead: dict[SlotKey, tuple[Choice, Ahead]] = {}
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots.values())

    @property
    def ahead(self) -> tuple[tuple[Choice, Ahead], ...]:
        """What is to be loaded before it is asked for."""
        return tuple(self._ahead.values())

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
            raise stopping()
        key = choice.key
        self._breakers.setdefault(key, Breaker()).check(time.monotonic())
        slot = await self._slot_for(key, choice)
        with slot.line.attending(program, share):
            if keep_alive is not None:
                slot.keep_alive, slot.kept, slot.learns = keep_alive, "a request asked for it", False
            if isinstance(self._keep_alive, Residence) and not slot.users:
                self._keep_alive.begun(choice.model.id)
            slot.users += 1
            try:
                await self._fit_adapters(slot, choice)
                yield Lease(slot, choice, program)
            finally:
                slot.users -= 1
                slot.last_used = time.monotonic()
                self._settle(slot)
                await self._note_idle()

    def _settle(self, slot: Slot) -> None:
        """Decide how long an engine stays that nobody uses any more, and when it is loaded again unasked."""
        if slot.users or not isinstance(self._keep_alive, Residence):
            return
        self._ahead.pop(slot.key, None)
        self._keep_alive.ended(slot.choice.model.id)
        if slot.learns and slot.handle is not None:
            kept = self._keep_alive.kept(slot.choice.model.id, slot.load_s, slot.share)
            slot.keep_alive, slot.kept = kept.seconds, kept.why
            if kept.ahead is not None:
                self._ahead[slot.key] = slot.choice, kept.ahead

    async def _slot_for(self, key: SlotKey, choice: Choice) -> Slot:
        while (slot := self._slots.get(key)) is not None and choice.n_ctx:
            if slot.plan is None:
                await self._wait_until(partial(self._planned_or_gone, key, slot))
            elif choice.n_ctx > slot.plan.n_ctx:
                await self._outgrow(key, slot, choice.n_ctx)
            else:
                break
        if self._closing:
            raise stopping()
        if slot is None:
            learns = isinstance(self._keep_alive, Residence)
            seconds = _USUAL_S if isinstance(self._keep_alive, Residence) else self._keep_alive
            slot = self._begin(Slot(choice, seconds, Line(self._queue), "" if learns else "as set", learns))
        return slot

    def _begin(self, slot: Slot) -> Slot:
        """Load it, unless it is there: whoever wants it finds it in its place."""
        self._slots[slot.key] = slot
        slot.task = asyncio.create_task(self._bring_up(slot.key, slot))
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
            slot.share = slot.plan.total / max(1, self._budget())
            await self._announce()
            loaded = await self._load(slot.choice, slot.plan, slot.say, self._on_step)
        except BaseException as error:
            if isinstance(error, EngineFailed):
                self._breakers[key].note_death(time.monotonic())
            self._forget(key, slot)
            await self._announce()
            raise
        slot.load_s, slot.plan = time.monotonic() - begun, loaded.plan or slot.plan
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
                await self._evict(idle[0])
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
            await self._evict(idle[0])
        slot.adapters.use(choice.adapters)

    def _something_freed(self, others: list[Slot]) -> bool:
        return any(slot.idle or slot not in self._slots.values() for slot in others)

    async def _evict(self, slot: Slot) -> None:
        """Unload an engine, unless it has gone by itself or come into use while the other was planned."""
        if self._slots.get(slot.key) is slot and slot.idle:
            await self._unload(slot.key, slot, "its memory is needed")

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
        self._ahead = {key: wanted for key, wanted in self._ahead.items() if wanted[0].model.id != model}
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
        if self._next() < self._reaps_at:
            self._wake.set()
        if (self._reaper is None or self._reaper.done()) and not self._closing:
            self._reaper = asyncio.create_task(self._reap())

    def _next(self) -> float:
        """When the next idle engine expires or is loaded ahead; monotonic seconds, FOREVER where none does."""
        expiries = [slot.expires for slot in self._slots.values() if slot.idle]
        loads = [time.monotonic() + ahead.begin - time.time() for _, ahead in self._ahead.values()]
        return min(expiries + loads, default=FOREVER)

    async def _reap(self) -> None:
        """Sleep until the next idle engine expires or is loaded ahead, and end when there is neither."""
        while not self._closing:
            self._wake.clear()
            self._reaps_at = self._next()
            if self._reaps_at == FOREVER:
                return
            with suppress(TimeoutError):  # woken early: a lease has ended with a shorter keep-alive
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._reaps_at - time.monotonic()))
            for key, slot in list(self._slots.items()):
                if slot.idle and slot.expires <= time.monotonic():
                    await self._unload(key, slot, f"idle for {slot.keep_alive:.0f} s")
            for key, (choice, ahead) in list(self._ahead.items()):
                if ahead.begin <= time.time():
                    self._ahead.pop(key, None)
                    await self._load_ahead(choice, ahead)

    async def _load_ahead(self, choice: Choice, ahead: Ahead) -> None:
        """Load an engine that nobody asked for, where nothing else has to give way for it."""
        left = ahead.end - time.time()
        if choice.key in self._slots or left <= 0 or self._closing or not isinstance(self._keep_alive, Residence):
            return
        slot = Slot(choice, left, Line(self._queue), f"auto: loaded ahead, {ahead.why}", learns=True)
        refusal = self._keep_alive.forbids() or ("it died lately" if self.resting(choice) else "")
        try:
            best = await self._planned(slot, self._budget())
            plan = await self._planned(slot, self._budget() - sum(s.charged for s in self._slots.values()))
            refusal = refusal or ("" if plan.as_good_as(best) and not plan.weights else "its memory is in use")
        except LocalaiError as error:
            refusal = refusal or error.message
        if refusal or choice.key in self._slots:
            _log.info("%s is not loaded ahead: %s", choice.model.id, refusal or "it was asked for")
            return
        _log.info("loading %s ahead: %s", choice.model.id, ahead.why)
        self._begin(slot)

    async def close(self, grace: float) -> None:
        """Take no new leases, give running ones `grace` seconds, then stop every engine."""
        self._closing = True
        await self._wait_until(lambda: all(s.users == 0 for s in self._slots.values()), grace)
        self._wake.set()
        await asyncio.gather(*(self._unload(key, slot, "stopping") for key, slot in list(self._slots.items())))
        await asyncio.gather(*self._background, *([self._reaper] if self._reaper else []))


def _unused(slot: Slot) -> bool:
    return slot.users == 0
