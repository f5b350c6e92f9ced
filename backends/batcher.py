"""The step loop: continuous batching with chunked prefill, priorities and cancellation, for any `engine.Engine`.

Jobs enter as prepared sequences, events and step records leave through `emit`. Each `turn` is one engine step at most:
every decoding sequence gets its token, and prefill gets the tokens that the measured step costs leave room for.
Sequences under different adapters take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from backends import reading
from backends.adapter_turns import AdapterTurns
from backends.cells import Cells
from backends.contract import (
    Adapter,
    Event,
    FinishReason,
    Priority,
    Progress,
    Sequences,
    Share,
    StepRecord,
    Token,
)
from backends.draft import DraftModel
from backends.engine import CacheFull, Engine, Floats, Slice, StepInterrupted
from backends.errors import BackendError, StorageFailed
from backends.kv.quotes import Quotes
from backends.kv.store import Store
from backends.prefill import BURST_S, LONG_STEP_S, SHORT_STEP, SPACING, outranks, plan_prefill, urgency
from backends.prefix import Held
from backends.sequences import MAX_ACTIVE, Sequence, rejection
from backends.speculate import Plan, Room, Speculator
from backends.threads import ThreadGovernor

_PROGRESS_S = 0.5
_RESTLESS_S = 5.0
"""Seconds of short steps after one was given up, so that frequent arrivals cannot keep a prompt from moving."""

Emit = Callable[[list[Event], StepRecord | None], None]
Adapters = tuple[Adapter, ...]


class Batcher:
    """Owns the running and waiting sequences of one engine. One thread calls `add`, `cancel` and `turn`.

    `arrived` tells, also in the middle of a step, whether something waits to be added or cancelled.
    """

    def __init__(
        self,
        engine: Engine,
        governor: ThreadGovernor,
        emit: Emit,
        step_seconds: float,
        store: Store | None = None,
        arrived: Callable[[], bool] = lambda: False,
        draft: DraftModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._info = engine.info()
        self._cells = Cells(engine, store, lambda tokens, depth: governor.current.estimate(tokens, depth))
        self._governor = governor
        self._emit = emit
        self._step_seconds = step_seconds
        self._arrived = arrived
        self._speculator = Speculator(engine, draft)
        self._patient = "interrupt" in self._info.capabilities
        self._calm_from = 0.0
        self._since_burst = SPACING + 1
        self._turns: AdapterTurns[Adapters] = AdapterTurns()
        self._adapters: Adapters | None = ()
        self._most = min(MAX_ACTIVE, self._info.n_seq)
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._cancelled: set[int] = set()
        self._full = False
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def census(self) -> Sequences:
        """All sequences, by what they do."""
        cells = self._cells
        return Sequences(len(self._waiting), len(self._running), cells.active, cells.residents, cells.free)

    def add(self, sequence: Sequence) -> None:
        sequence.last_served = sequence.submitted
        self._waiting.append(sequence)
        if _reuses(sequence):
            self._cells.expect(_held(sequence))

    def cancel(self, job: int) -> None:
        """End a job at the next turn; unknown numbers are of jobs that have ended already."""
        if any(s.job.id == job for s in (*self._waiting, *self._running)):
            self._cancelled.add(job)

    def turn(self) -> None:
        """Do one step's worth of work and emit what came of it."""
        self._sweep(self._clock())
        self._admit(self._clock())
        plan = self._plan(self._clock())
        record = self._run(plan) if plan else None
        if self._events or record:
            events, self._events = self._events, []
            self._emit(events, record)
        self.tend()

    def tend(self) -> bool:
        """Copy a little of what the cells hold to where it outlives them; False where there is nothing to copy."""
        return self._cells.tend(hurry=any(not s.prefilling for s in self._running))

    def spell(self, token: int) -> bytes:
        """The bytes of a token, as they stand in a prompt."""
        return self._engine.tokenizer.raw_piece(token)

    def purge(self, quotes: Quotes) -> int:
        """See `Cells.purge`."""
        return self._cells.purge(quotes)

    # -- ending early

    def _sweep(self, now: float) -> None:
        for sequence in (*self._waiting, *self._running):
            if sequence.job.id in self._cancelled:
                self._end(sequence, "cancelled")
            elif sequence.deadline_passed(now):
                self._end(sequence, "deadline")
        self._cancelled.clear()

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Say that a sequence is over; what it holds stays in the cache for whoever comes back to it."""
        for each in (sequence, *sequence.siblings):
            self._events.append(each.finish(reason))
        self._leave(sequence, keep=sequence.job.kind == "generate")
        sequence.close()

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
            self._full = False
        else:
            self._waiting.remove(sequence)
        if sequence.seq is not None:
            self._cells.release(sequence.seq, keep=keep)
            sequence.seq = None

    # -- starting

    def _admit(self, now: float) -> None:
        if self._full and self._running:
            return
        self._full = False
        for sequence in sorted(self._waiting, key=lambda s: urgency(s, now)):
            if sum(s.width for s in self._running) + sequence.width > self._most:
                return
            # Growing answers may outrun the cells later; `_make_room` then sets the least urgent one back.
            promised = sum(s.remaining for s in self._running if s.prefilling)
            cells = promised + min(len(sequence.tokens) + sequence.width, self._cells.n_cells)
            held, reuse = _held(sequence), _reuses(sequence)
            if reuse and self._running and self._cells.reading(held):
                continue
            place = self._cells.acquire(held, cells=cells, reuse=reuse)
            if place is None:
                return
            sequence.seq, sequence.pos = place.seq, place.held
            if sequence.admitted is None:
                sequence.admitted, sequence.cached = now, place.held
                sequence.cached_by_tier, sequence.restore_s = place.cached, place.restore_s
            self._waiting.remove(sequence)
            self._running.append(sequence)

    # -- one step

    def _plan(self, now: float) -> Plan:
        group = self._group()
        decoding = [s for s in group if not s.prefilling]
        plan = [(s, Slice(_number(s), s.tokens[s.pos :], s.pos, "last")) for s in decoding]
        prefilling = sorted((s for s in group if s.prefilling), key=lambda s: urgency(s, now))
        # Long steps are the most efficient, and can be given up; after one was, short ones lose less for a while.
        # Those who wait for their turn gain nothing from giving up.
        patient = self._patient and now >= self._calm_from and len(group) == len(self._running)
        seconds = LONG_STEP_S if patient else self._step_seconds
        costs = self._governor.current
        self._since_burst += 1
        mixed = plan_prefill(prefilling, len(decoding), costs, self._info, seconds)
        if not prefilling:
            used = self._cells.used
            room = Room(self._cells.n_cells - used, used, self._governor.threads)
            return self._speculator.lengthen(plan, costs, room)
        if mixed:
            return plan + mixed
        if self._since_burst <= SPACING and not outranks(prefilling[0], decoding):
            return plan
        self._since_burst = 0
        return plan_prefill(prefilling, 0, costs, self._info, min(seconds, BURST_S))

    def _group(self) -> list[Sequence]:
        """The running sequences that may share the next step: those under the adapters whose turn it is."""
        if not self._running:
            return []
        present: dict[Adapters, list[Priority]] = {}
        for s in self._running:
            present.setdefault(s.job.adapters, []).append(s.job.priority)
        chosen = self._turns.choose(present)
        return [s for s in self._running if s.job.adapters == chosen]

    def _switch(self, adapters: Adapters) -> bool:
        """Run under `adapters` from now on; where the engine cannot, their jobs end and the step does not happen."""
        try:
            self._engine.adapt(adapters)
        except BackendError as error:
            self._adapters = None
            for each in [s for s in self._running if s.job.adapters == adapters]:
                if each in self._running:
                    self._reject(each, error)
            return False
        self._adapters = adapters
        return True

    def _run(self, plan: Plan) -> StepRecord | None:
        tokens = sum(len(part.tokens) for _, part in plan)
        depth = max((part.pos + len(part.tokens) for s, part in plan if s.prefilling), default=0)
        adapters = plan[0][0].job.adapters
        t0, cpu0 = self._clock(), time.process_time()
        switched = adapters != self._adapters
        if switched and not self._switch(adapters):
            return None
        interruptible = self._patient and tokens >= SHORT_STEP and all(s.prefilling for s, _ in plan)
        try:
            ran = self._speculator.run(plan, self._arrived if interruptible else None)
        except CacheFull:
            if any(s.remaining < len(part.tokens) for s, part in plan):
                # Guesses may have been what did not fit.
                return self._run([(s, Slice(_number(s), s.tokens[s.pos :], s.pos, "last")) for s, _ in plan])
            self._make_room()
            return None
        except StepInterrupted:
            self._calm_from = self._clock() + _RESTLESS_S
            return None
        except StorageFailed as error:
            for sequence, _ in plan:
                self._reject(sequence, error)
            return None
        if "paged" in self._info.capabilities:
            plan[0][0].add_paged(self._engine.paged_use())
        t1 = self._clock()
        threads, plan = self._governor.threads, ran.plan
        tokens = sum(len(part.tokens) for _, part in plan)
        took = t1 - t0 - ran.aside_s
        change_s = self._turns.took(took, self._governor.current.estimate(tokens, depth) if switched else None)
        shares = [self._advance(s, part, row, t1) for (s, part), row in zip(plan, ran.results, strict=True)]
        cpu = time.process_time() - cpu0
        reach = depth or sum(part.pos + 1 for _, part in plan) // len(plan)
        change = self._governor.after_step(tokens, took - change_s, t1, depth, reach)
        if change is not None:
            self._engine.set_threads(change)
        return StepRecord(t0, t1, cpu, threads, shares, change_s if switched else None)

    def _make_room(self) -> None:
        """The cells are full: drop a resident, else set back the least urgent sequence, else end the only one."""
        if self._cells.evict_one():
            return
        now = self._clock()
        last = max(self._running, key=lambda s: urgency(s, now))
        if len(self._running) == 1:
            self._end(last, "length")
            return
        self._leave(last, keep=False)
        # Let in again at once, it would only be set back again: first another has to end.
        self._full = True
        last.set_back()
        self._waiting.insert(0, last)

    def _advance(self, sequence: Sequence, part: Slice, result: Floats | None, now: float) -> Share:
        decoding = not sequence.prefilling
        if decoding and part.want == "all" and result is not None and sequence.seq is not None:
            return self._verify(sequence, part, result, now)
        count = len(part.tokens)
        if sequence.seq is None:
            # Another choice of its job ended them all in this very step.
            return Share(sequence.job.id, 0 if decoding else count, 1 if decoding else 0, part.pos + count)
        sequence.pos += count
        sequence.last_served = now
        self._cells.grow(_number(sequence), sequence.pos)
        share = Share(sequence.job.id, 0 if decoding else count, 1 if decoding else 0, sequence.pos)
        if sequence.job.kind == "embed" and result is not None:
            reading.gather(sequence, result)
        elif part.want == "all" and result is not None:
            self._events += reading.score(sequence, part, result, self._engine.tokenizer)
        if sequence.remaining:
            self._report_progress(sequence, now)
        elif sequence.prompt_done is None:
            sequence.prompt_done = now
            self._start_answer(sequence, result)
        elif result is not None:
            self._draw(sequence, result[-1])
        return share

    def _verify(self, sequence: Sequence, part: Slice, rows: Floats, now: float) -> Share:
        """Draw at each position while the guess there is what was drawn; what lies beyond leaves the cells."""
        drafted = len(part.tokens) - 1
        start = sequence.pos
        sequence.last_served = now
        for row in rows:
            if sequence.seq is None:
                break
            sequence.pos += 1
            guessed = part.tokens[sequence.pos - start :]
            try:
                token, reason = sequence.draw(row, self._engine.tokenizer)
            except BackendError as error:
                self._reject(sequence, error)
                break
            self._cells.grow(_number(sequence), sequence.pos)
            wrong = bool(guessed) and (token is None or token.id != guessed[0])
            if guessed and (wrong or reason is not None):
                self._engine.trim(_number(sequence), sequence.pos)
            self._said(sequence, token, reason)
            if wrong:
                break
        accepted = sequence.pos - start - 1
        self._speculator.judge(sequence, drafted, accepted)
        return Share(sequence.job.id, 0, 1 + accepted, sequence.pos, drafted, accepted)

    def _start_answer(self, sequence: Sequence, result: Floats | None) -> None:
        if sequence.job.kind == "embed":
            self._events.append(reading.embedding(sequence, self._clock()))
            self._leave(sequence, keep=False)
            return
        if sequence.job.max_tokens == 0 or result is None:
            self._end(sequence, "length")
            return
        row = result[-1]
        siblings, sequence.siblings = sequence.siblings, []
        for sibling in siblings:
            sibling.seq = self._cells.fork(_number(sequence), sibling.tokens)
            sibling.pos, sibling.cached = sequence.pos, sequence.cached
            sibling.cached_by_tier = sequence.cached_by_tier
            sibling.admitted, sibling.prompt_done = sequence.admitted, sequence.prompt_done
            sibling.last_served = sequence.last_served
            self._running.append(sibling)
        for each in (sequence, *siblings):
            self._draw(each, row)

    def _draw(self, sequence: Sequence, row: Floats) -> None:
        if sequence.seq is None:
            return
        try:
            token, reason = sequence.draw(row, self._engine.tokenizer)
        except BackendError as error:
            self._reject(sequence, error)
            return
        self._said(sequence, token, reason)

    def _said(self, sequence: Sequence, token: Token | None, reason: FinishReason | None) -> None:
        if token is not None:
            self._events.append(token)
        if reason is None and len(sequence.tokens) > self._info.n_ctx:
            reason = "length"
        if reason is not None:
            self._end(sequence, reason)

    def _reject(self, sequence: Sequence, error: BackendError) -> None:
        """End all choices of a job in an error that none of them can outlive, as a grammar that got too complex."""
        self._events.append(rejection(sequence.job.id, error))
        for each in [s for s in (*self._running, *self._waiting) if s.job.id == sequence.job.id]:
            self._leave(each, keep=False)
            each.close()

    def _report_progress(self, sequence: Sequence, now: float) -> None:
        if now - sequence.last_progress >= _PROGRESS_S and sequence.prefilling:
            sequence.last_progress = now
            self._events.append(Progress(sequence.job.id, sequence.pos, len(sequence.job.tokens)))


def _held(sequence: Sequence) -> Held:
    job = sequence.job
    return Held(sequence.tokens, (*job.adapters, job.salt) if job.salt else job.adapters)


def _reuses(sequence: Sequence) -> bool:
    """Whether cached tokens will do: a prompt that is read out must be computed."""
    return sequence.job.kind == "generate" and sequence.job.prompt_logprobs is None


def _number(sequence: Sequence) -> int:
    assert sequence.seq is not None
    return sequence.seq
