"""Who is served next where more is asked of an engine than it can do at a time: programs in turn, by what they take.

A program's name and a job's size enter; a place leaves, or TooBusy. Start-time fair queueing (Goyal, Vin and Cheng
1996): each program has a clock that advances by what it was given, and the one furthest behind comes next. Knows no
engine. All methods belong to one asyncio loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from backends.contract import Job, Priority
from localai.errors import DeadlinePassed, TooBusy

_URGENCY: dict[Priority, int] = {"interactive": 0, "normal": 1, "background": 2}
_AHEAD = 4
"""Places beyond those of an engine for whoever types: the engine itself lets them overtake."""
_LONGEST_RETRY_S = 60
_SMOOTHING = 0.2
_USUAL_ANSWER = 256
"""Tokens that an answer without a limit is taken to have."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one job asks of its engine: `cost` in tokens, `width` in sequences, `deadline` in seconds from now."""

    cost: float
    width: int = 1
    priority: Priority = "normal"
    deadline: float | None = None


def wish(job: Job) -> Wish:
    """What `job` asks at most: its prompt, and all that it may answer."""
    most = _USUAL_ANSWER if job.max_tokens is None else job.max_tokens
    return Wish(len(job.tokens) + most * job.n, job.n, job.priority, job.deadline)


@dataclass(slots=True, eq=False)
class _Program:
    """`clock` is in tokens; `attending` counts requests that are under way, `running` sequences."""

    clock: float = 0.0
    attending: float = 0.0
    running: int = 0
    waiting: list[_Ticket] = field(default_factory=list)

    def open(self) -> list[_Ticket]:
        return [ticket for ticket in self.waiting if not ticket.turn.done()]


@dataclass(slots=True, eq=False)
class _Ticket:
    program: _Program
    wish: Wish
    turn: asyncio.Future[None]


class Line:
    """Before one engine. `most` requests may be under way, and half as many of one program."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._programs: dict[str, _Program] = {}
        self._clock = 0.0
        self._running = 0
        self._room = 1
        self._service_s = 1.0

    @contextmanager
    def attending(self, name: str, share: float) -> Generator[None]:
        """Count a request of `name`, or its `share` of one, for the block. Raises TooBusy with the seconds to wait."""
        program = self._programs.setdefault(name, _Program())
        everyone = sum(other.attending for other in self._programs.values())
        if program.attending + share > max(1, self._most // 2) + 0.5:
            raise self._busy(f"{name or 'this program'} has {program.attending:.0f} requests under way already")
        if everyone + share > self._most + 0.5:
            raise self._busy(f"{everyone:.0f} requests are under way for this model already")
        program.attending += share
        try:
            yield
        finally:
            program.attending -= share
            if program.attending < share / 2 and not (program.running or program.waiting):
                del self._programs[name]

    @asynccontextmanager
    async def place(self, name: str, wish: Wish, room: int) -> AsyncGenerator[float]:
        """Wait for one of the engine's `room` sequences and hold it for the block; seconds waited.

        Within `attending` alone. Raises DeadlinePassed where the deadline comes first.
        """
        program, begun = self._programs[name], time.monotonic()
        self._room = room
        ticket = _Ticket(program, wish, asyncio.get_running_loop().create_future())
        # A program that asked for nothing for a while has not saved up for it.
        program.clock = max(program.clock, self._clock) if not (program.waiting or program.running) else program.clock
        program.waiting.append(ticket)
        self._admit()
        try:
            await asyncio.wait_for(ticket.turn, wish.deadline)
            started = time.monotonic()
            yield started - begun
            self._service_s += _SMOOTHING * (time.monotonic() - started - self._service_s)
        except TimeoutError as error:
            if ticket not in program.waiting:
                raise
            hint = "allow more time, or ask when less is going on"
            raise DeadlinePassed("the deadline passed while the request waited for its turn", hint) from error
        finally:
            self._leave(ticket)

    def _leave(self, ticket: _Ticket) -> None:
        if ticket in ticket.program.waiting:
            ticket.program.waiting.remove(ticket)
        else:
            width = self._width(ticket)
            ticket.program.running -= width
            self._running -= width
        self._admit()

    def _admit(self) -> None:
        while (ticket := self._next()) is not None:
            program, width = ticket.program, self._width(ticket)
            program.waiting.remove(ticket)
            program.running += width
            self._running += width
            self._clock = max(self._clock, program.clock)
            program.clock += ticket.wish.cost
            ticket.turn.set_result(None)

    def _next(self) -> _Ticket | None:
        """The most urgent ticket of the program that is furthest behind, if it fits: a wide one is waited for.

        Only who types may overtake it.
        """
        # Whoever gave up is still in line until it has noticed.
        heads = [min(open_, key=_urgency) for p in self._programs.values() if (open_ := p.open())]
        due = sorted((t for t in heads if self._allowed(t)), key=lambda ticket: ticket.program.clock)
        chosen = [t for place, t in enumerate(due) if place == 0 or t.wish.priority == "interactive"]
        return next((ticket for ticket in chosen if self._running + self._width(ticket) <= self._places(ticket)), None)

    def _places(self, ticket: _Ticket) -> int:
        return self._room + (_AHEAD if ticket.wish.priority == "interactive" else 0)

    def _allowed(self, ticket: _Ticket) -> bool:
        """A program leaves an eighth of the places to others: whoever comes next need not wait for its answers."""
        own = ticket.program.running
        return not own or own + self._width(ticket) <= max(1, self._places(ticket) - self._room // 8)

    def _width(self, ticket: _Ticket) -> int:
        return min(ticket.wish.width, self._room)

    def _busy(self, message: str) -> TooBusy:
        error = TooBusy(message, "wait, or ask for less at a time")
        waiting = sum(len(program.waiting) for program in self._programs.values())
        seconds = math.ceil((waiting + 1) * self._service_s / self._room)
        error.retry_after = max(1, min(seconds, _LONGEST_RETRY_S))
        return error


def _urgency(ticket: _Ticket) -> int:
    return _URGENCY[ticket.wish.priority]
