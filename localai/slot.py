"""One engine in the pool, loading or loaded, and the lease by which it is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from backends.contract import Job
from backends.errors import EngineDied
from backends.handle import EngineHandle
from localai.adapter_memory import AdapterMemory
from localai.choice import Choice
from localai.errors import Unavailable
from localai.fairness import Line, wish
from localai.messages import Waiting
from localai.orders import Plan

SlotKey = tuple[str, str, str]
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A started engine, what to do if it dies while serving, and what had to be turned off for it to live here.

    `note_end` is for its end in peace. `plan` is what it was loaded by, None where that is what was planned.
    """

    handle: EngineHandle
    note_death: Callable[[EngineDied], None]
    notes: tuple[str, ...] = ()
    note_end: Callable[[], None] = lambda: None
    plan: Plan | None = None


@dataclass(slots=True, eq=False)
class Slot:
    """One engine, loading or loaded. `users` are leases; times are monotonic seconds.

    `kept` says in words what `keep_alive` rests on; `learns` where the pauses between uses decide it.
    """

    choice: Choice
    keep_alive: float
    line: Line
    kept: str = ""
    learns: bool = False
    plan: Plan | None = None
    handle: EngineHandle | None = None
    task: asyncio.Task[None] | None = None
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)
    stage: Waiting = Waiting("queued")
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    load_s: float = 0.0
    share: float = 0.0
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
        return FOREVER if self.keep_alive < 0 else self.last_used + self.keep_alive


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
            raise stopping()
        task.result()


def stopping() -> Unavailable:
    return Unavailable("the daemon is stopping", "start it again: `localai start`")
