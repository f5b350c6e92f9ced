"""Answers that another machine makes: a request that names an upstream's model in, the events of its answer out.

Only the model's name in the request itself leads here. What goes wrong before the first word may lead to a model of
this machine, which then says so; after it, to an error.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from localai.catalog import Catalog
from localai.decoding import Clock
from localai.energy.figures import Energy
from localai.errors import DeadlinePassed, Forbidden, LocalaiError, TooBusy, Unavailable, UnknownModel, UpstreamFailed
from localai.ledger import Entry
from localai.messages import ChoiceDone, Delta, Embedded, Recalled, Started, TurnEvent, TurnRequest, Waiting
from localai.upstreams.health import Line
from localai.upstreams.spec import UpstreamSpec, key_of
from localai.upstreams.timings import Stopwatch
from localai.upstreams.wire import PATHS, ChunkReader, NotUnderstood, body_of, refuse_what_stays_here, vector_of

_log = logging.getLogger(__name__)

BACKEND = "upstream"
_HELPLESS = (UpstreamFailed, Unavailable, TooBusy)
"""What a model of this machine can help with; a request that is wrong stays wrong."""


@dataclass(slots=True)
class Away:
    """What became of a request: answered elsewhere (`served`), else `instead` is what is to be answered here."""

    events: AsyncGenerator[TurnEvent, None]
    instead: TurnRequest
    served: bool = False


class Upstreams:
    """All upstreams of the catalogue as it is now; `close` at the end. Belongs to one asyncio loop."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self._lines: dict[str, Line] = {}
        self._left: set[Line] = set()

    @asynccontextmanager
    async def relay(self, request: TurnRequest, clock: Clock, entry: Entry) -> AsyncIterator[Away]:
        """The answer of the upstream that `request` names; no events, and nothing served, where it names none.

        A model that was picked for the client is not one that it named: then nothing leaves.
        Raises LocalaiError; leaving the context cancels the work there.
        """
        spec = None if request.picked else self._catalog().upstream_of(request.model)
        away = Away(_nothing(), request)
        if spec is not None:
            away.events = self._events(spec, away, clock, entry)
        async with aclosing(away.events):
            yield away

    async def _events(
        self, spec: UpstreamSpec, away: Away, clock: Clock, entry: Entry
    ) -> AsyncGenerator[TurnEvent, None]:
        request, line = away.instead, self.line(spec)
        reason = f"{request.model} was asked for; it is on another machine ({spec.host})"
        reason += ", to which no memories go" if request.memory else ""
        _check(request, spec)
        said, refusal = False, _resting(line, request)
        line.begin()
        try:
            if refusal is not None:
                raise refusal
            async with aclosing(self._answer(line, request, clock)) as events:
                async for event in events:
                    if not said and not isinstance(event, Waiting):
                        said = True
                        entry.routed(request.model, BACKEND, reason)
                        entry.took(_unknown_energy(spec))
                        yield Started(request.model, BACKEND, reason, _context(line, request), request.id)
                        yield Recalled(())
                    entry.saw(event)
                    yield event
            line.note_answer()
            away.served = True
        except _HELPLESS as error:
            # Being told to come back later is no fault, and a request that was not even sent is none either.
            if error is not refusal and not isinstance(error, TooBusy):
                line.note_failure(error)
            if said or not spec.fallback or request.kind == "embedding":
                raise
            line.fallbacks += 1
            away.instead = _instead(request, spec.fallback, error, clock)
            _log.warning("%s is answered by %s: %s", request.model, spec.fallback, error.message)
        finally:
            line.end()

    async def _answer(self, line: Line, request: TurnRequest, clock: Clock) -> AsyncGenerator[TurnEvent, None]:
        key = await asyncio.to_thread(key_of, line.spec)
        model = request.model.partition("/")[2]
        body, path = body_of(request, model), PATHS[request.kind]
        watch = Stopwatch(clock)
        yield Waiting(BACKEND)
        try:
            if request.kind == "embedding":
                vector, count = vector_of(await line.client.document("POST", path, key, body))
                watch.saw()
                yield Embedded(vector)
                yield watch.summary(count, 0, 0, _unknown_energy(line.spec))
                return
            reader = ChunkReader(request.kind, request.n)
            chunks = line.client.chunks(path, body, key)
            async with aclosing(_in_time(chunks, reader, request, clock)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        watch.saw()
                    yield event
        except NotUnderstood as error:
            hint = "is it an OpenAI-compatible server?"
            raise UpstreamFailed(f"the upstream {line.spec.name!r} is not understood: {error}", hint) from error
        if not reader.whole:
            raise UpstreamFailed(f"the upstream {line.spec.name!r} broke off in the middle of its answer", "ask again")
        usage = reader.usage
        yield watch.summary(usage.prompt, usage.cached, usage.completion, _unknown_energy(line.spec))

    def line(self, spec: UpstreamSpec) -> Line:
        """The state of an upstream, anew where its entry has changed."""
        known = self._lines.get(spec.name)
        if known is None or known.spec != spec:
            if known is not None:
                self._left.add(known)
            known = self._lines[spec.name] = Line(spec)
        return known

    async def models(self) -> list[tuple[str, UpstreamSpec, int | None]]:
        """All names under which models of upstreams can be asked for, with their contexts where known."""
        specs = self._catalog().upstreams
        found = await asyncio.gather(*(self.line(spec).names() for spec in specs))
        return [
            (f"{spec.name}/{name}", spec, context)
            for spec, names in zip(specs, found, strict=True)
            for name, context in names.items()
        ]

    def report(self) -> list[dict[str, Any]]:
        """For `localai status`: each upstream of the catalogue and how it does."""
        return [_shown(spec, self._lines.get(spec.name)) for spec in self._catalog().upstreams]

    async def close(self) -> None:
        """End all checks and connections."""
        await asyncio.gather(*(line.close() for line in (*self._lines.values(), *self._left)))


async def _nothing() -> AsyncGenerator[TurnEvent, None]:
    none: tuple[TurnEvent, ...] = ()
    for event in none:
        yield event


async def _in_time(
    chunks: AsyncGenerator[dict[str, Any] | None, None], reader: ChunkReader, request: TurnRequest, clock: Clock
) -> AsyncGenerator[TurnEvent, None]:
    """The events of `chunks` until the request's deadline, which ends an answer that was begun and fails another."""
    loop, said = asyncio.get_running_loop(), False
    left = None if request.deadline is None else request.deadline - (time.monotonic() - clock.started)
    until = None if left is None else loop.time() + left
    async with aclosing(chunks):
        while True:
            try:
                async with asyncio.timeout_at(until):
                    chunk = await anext(chunks, _END)
            except TimeoutError as error:
                if not said:
                    hint = "allow more time, or shorten the prompt"
                    raise DeadlinePassed("the deadline passed before the first token", hint) from error
                for index in reader.open:
                    for event in reader.read(_cut(index, request.kind)):
                        yield replace(event, reason="deadline") if isinstance(event, ChoiceDone) else event
                return
            if chunk is _END:
                return
            if chunk is None:
                yield Waiting(BACKEND)
                continue
            for event in reader.read(chunk):
                said = True
                yield event


_END: dict[str, Any] = {}


def _cut(index: int, kind: str) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {}, "text": "", "finish_reason": "length"}]}


def _check(request: TurnRequest, spec: UpstreamSpec) -> None:
    """Raises what is wrong with the request, before anything leaves this machine."""
    name = request.model.partition("/")[2]
    if spec.models and name not in spec.models:
        near = difflib.get_close_matches(name, spec.models, n=1, cutoff=0.3)
        raise UnknownModel(request.model, f"{spec.name}/{near[0]}" if near else None)
    if spec.key_source and not spec.share and not request.trusted:
        raise Forbidden(
            f"the upstream {spec.name!r} has a key, which is for this user's own programs",
            "connect to run/localai.sock in the data folder, or set share = true for it in models.toml",
        )
    refuse_what_stays_here(request)


def _resting(line: Line, request: TurnRequest) -> Unavailable | None:
    """Why asking is pointless now, so that nobody waits for a machine known to be away; None where it is not."""
    rest, down = line.resting_s, line.state == "down" and line.spec.fallback and request.kind != "embedding"
    if not rest and not down:
        return None
    why = f": {line.problem}" if line.problem else ""
    state = "failed repeatedly and rests" if rest else "is down"
    error = Unavailable(f"the upstream {line.spec.name!r} {state}{why}", "`localai status` shows how it does")
    error.retry_after = max(1, round(rest))
    return error


def _context(line: Line, request: TurnRequest) -> int:
    """Tokens, as far as the upstream told; 0 where it did not."""
    return line.found.get(request.model.partition("/")[2]) or 0


def _instead(request: TurnRequest, fallback: str, error: LocalaiError, clock: Clock) -> TurnRequest:
    passed = time.monotonic() - clock.started
    left = None if request.deadline is None else max(0.001, request.deadline - passed)
    why = f"{request.model} was asked for, but {error.message}"
    return replace(request, model=fallback, deadline=left, fallback=why)


def _unknown_energy(spec: UpstreamSpec) -> Energy:
    return Energy(quality="none", reason=f"made on another machine, the upstream {spec.name!r}")


def _shown(spec: UpstreamSpec, line: Line | None) -> dict[str, Any]:
    same = line is not None and line.spec == spec
    return {
        "name": spec.name,
        "host": spec.host,
        "models": sorted(spec.models) or sorted(line.found if line else {}),
        "discovers": not spec.models,
        "fallback": spec.fallback or None,
        "key": spec.key_source or None,
        "state": "resting" if line and line.resting_s else line.state if line and same else "unknown",
        "problem": (line.problem if line else "") or None,
        "latency_ms": line.latency_ms if line else None,
        "users": line.users if line else 0,
        "requests": line.requests if line else 0,
        "failures": line.failures if line else 0,
        "fallbacks": line.fallbacks if line else 0,
    }
