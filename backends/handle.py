"""The daemon's end of an engine child: start it, send jobs, receive their events, notice its death.

All methods belong to one asyncio loop. A child that dies costs its running jobs one EngineDied, at once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import cast

import msgspec

from backends.contract import (
    Cancel,
    Detokenize,
    Embedding,
    EngineInfo,
    Event,
    Finish,
    FromChild,
    Ids,
    Job,
    Load,
    LoadFailed,
    Output,
    Pace,
    Ready,
    Rejected,
    Sequences,
    Stage,
    StepRecord,
    Text,
    ToChild,
    Token,
    Tokenize,
)
from backends.errors import BackendError, DeathStep, EngineDied, InvalidJob, rebuild
from backends.frames import child_decoder, encode
from backends.guesses import Guesses
from backends.kv_frames import Evicted, KvReport, Purge, Purged
from backends.kv_paging import PagedUse
from backends.paging_report import WeightsReport

_STOP_S = 20.0
_LAST_WORDS_S = 0.5
"""Wait for the rest of the output of a child that has exited: a process that it left behind may hold the pipe."""

OnStage = Callable[[str, float], None]
OnStep = Callable[[StepRecord], None]
OnDeath = Callable[[EngineDied], None]
OnReport = Callable[[KvReport], None]
OnPid = Callable[[int], None]

_numbers = itertools.count(1)


def new_number() -> int:
    """A number for a job that no other job of this daemon has, on whatever engine."""
    return next(_numbers)


def _ignore(_: object) -> None:
    pass


class EngineHandle(asyncio.SubprocessProtocol):
    """One running child. Make it with `start`.

    `info` is what it loaded, `rss` its resident bytes after loading, `rates` its decode rates in token/s by thread
    count, `stages` the seconds of each stage of loading; `kv`, `weights` and `sequences` the latest reports of its KV
    cache, of weights that do not all fit and of what it holds; `paged` what paging has taken so far, `guesses` the
    counts of all answers, and who guessed for the last one.
    """

    info: EngineInfo
    rss: int
    rates: dict[int, float]

    def __init__(self, order: Load, on_stage: OnStage, on_step: OnStep) -> None:
        self.order, self.phase = order, "start"
        self.stages: dict[str, float] = {}
        self._phase_began = time.monotonic()
        self.died: EngineDied | None = None
        self.last_step: StepRecord | None = None
        self.steps, self.guesses = 0, Guesses()
        self._on_stage, self._on_step = on_stage, on_step
        self.on_death: OnDeath | None = None
        self.kv: KvReport | None = None
        self.sequences: Sequences | None = None
        self.paged: PagedUse | None = None
        self.weights: WeightsReport | None = None
        self.on_report: OnReport | None = None
        self._decoder = child_decoder()
        self._jobs: dict[int, asyncio.Queue[Event | BackendError]] = {}
        self._answering: set[int] = set()
        self._asked: dict[int, asyncio.Future[list[int] | str | Purged]] = {}
        loop = asyncio.get_running_loop()
        self._loaded, self._gone = loop.create_future(), loop.create_future()
        self._stopping = self._exited = self._silent = False
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None

    @classmethod
    async def start(
        cls,
        order: Load,
        *,
        log: Path,
        env: dict[str, str] | None = None,
        on_stage: OnStage,
        on_step: OnStep = _ignore,
        on_pid: OnPid = _ignore,
    ) -> EngineHandle:
        """Start a child and wait until the model is loaded; the child's own output goes to `log`.

        `on_pid` is told its process id as soon as there is one.
        Raises what the child reported, or EngineDied if it ended before it could. Cancelling kills the child.
        """
        loop = asyncio.get_running_loop()
        handle = cls(order, on_stage, on_step)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            # -P: the child must find our packages, not a folder that happens to be the working directory.
            await loop.subprocess_exec(
                lambda: handle,
                *(sys.executable, "-P", "-m", "backends.worker"),
                stderr=stderr,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        try:
            if handle.pid is not None:
                on_pid(handle.pid)
            handle._send(order)
            await handle._loaded
        except BaseException:
            handle.kill()
            # Its memory is free for the next try only when it is gone.
            await asyncio.shield(handle._gone)
            raise
        return handle

    @property
    def pid(self) -> int | None:
        return self._transport.get_pid() if self._transport else None

    @property
    def busy(self) -> int:
        """Jobs that have not ended."""
        return len(self._jobs)

    @property
    def owing(self) -> bool:
        """Whether somebody waits for what the child has not said."""
        return bool(self._asked) or any(queue.empty() for queue in self._jobs.values())

    def kill(self) -> None:
        if self._transport is not None and self._transport.get_returncode() is None:
            self._transport.kill()

    async def stop(self) -> None:
        """Close the child's input, which ends it; kill it if it lingers. Running jobs get EngineDied."""
        self._stopping = True
        if self._stdin is not None:
            self._stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._gone), _STOP_S)
        except TimeoutError:
            self.kill()
            await self._gone

    # -- work

    async def tokenize(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        """Ids of `text` in this model's vocabulary; a lone surrogate becomes U+FFFD, as frames carry UTF-8 only."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        reply = await self._ask(lambda n: Tokenize(n, text, special, add_bos))
        assert isinstance(reply, list)
        return reply

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of `tokens`, control tokens spelt out."""
        reply = await self._ask(lambda n: Detokenize(n, tokens))
        assert isinstance(reply, str)
        return reply

    def forget(self, keys: list[bytes]) -> None:
        """Tell the child that these KV blocks are gone from the SSD."""
        if self.died is None:
            self._send(Evicted(keys))

    async def run(self, job: Job) -> AsyncGenerator[Event, None]:
        """Submit a job (an `id` of 0 is replaced by a new number) and yield its events until every choice has ended.

        Closing the iterator cancels the job at the child's next step. Raises BackendError where the job fails.
        """
        self._check_alive()
        number = job.id or new_number()
        queue: asyncio.Queue[Event | BackendError] = asyncio.Queue()
        self._jobs[number] = queue
        left = max(1, job.n)
        try:
            self._submit(msgspec.structs.replace(job, id=number))
            while left:
                event = await queue.get()
                if isinstance(event, BackendError):
                    left = 0
                    raise event
                if isinstance(event, Finish | Embedding):
                    left -= 1
                    self.guesses = event.usage.guesses.after(self.guesses)
                if not left:
                    del self._jobs[number]
                yield event
        finally:
            self._jobs.pop(number, None)
            self._answering.discard(number)
            if left and self.died is None:
                self._send(Cancel(number))

    def pace(self, rest: float) -> None:
        """Let the child rest after each step, for `rest` times as long as the step took."""
        if self.died is None:
            self._send(Pace(rest))

    def cancel(self, job: int) -> None:
        """End a job at the child's next step; what it has made stays, and its events still come."""
        self._send(Cancel(job))

    async def purge(self, pieces: list[bytes]) -> Purged:
        """Let the child forget all KV whose text has one of `pieces`; returns when no tier of its has it any more."""
        reply = await self._ask(lambda n: Purge(n, pieces))
        assert isinstance(reply, Purged)
        return reply

    async def _ask(self, make: Callable[[int], ToChild]) -> list[int] | str | Purged:
        self._check_alive()
        number = new_number()
        future: asyncio.Future[list[int] | str | Purged] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._send(make(number))
            return await future
        finally:
            self._asked.pop(number, None)

    def _check_alive(self) -> None:
        if self.died is not None:
            raise self._again(self.died)

    @staticmethod
    def _again(death: EngineDied) -> EngineDied:
        """A copy for each who must raise it: a shared exception would gather every reader's traceback."""
        return EngineDied(death.message, death.hint, cause=death.cause, step=death.step)

    def _submit(self, job: Job) -> None:
        try:
            self._send(job)
        except (OverflowError, UnicodeEncodeError) as error:
            message = f"a field of the request cannot be sent to the engine: {error}"
            raise InvalidJob(message, "use 64-bit numbers and UTF-8") from error

    def _send(self, frame: ToChild) -> None:
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(encode(frame))

    # -- asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports quack like asyncio's.
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        try:
            frames = self._decoder.feed(data)
        except BackendError as error:
            self._fail(EngineDied(error.message, error.hint, cause="noise", step=self._step()))
            self.kill()
            return
        for frame in frames:
            self._take(frame)

    def process_exited(self) -> None:
        self._exited = True
        if self._silent:
            self._bury()
        else:
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._bury)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._silent = True
            if self._exited:
                self._bury()

    def _bury(self) -> None:
        """The child has exited and said its last word: either alone would lose the cause, or the reason it gave."""
        if self._gone.done():
            return
        self._gone.set_result(None)
        assert self._transport is not None
        self._fail(self._obituary(self._transport.get_returncode()))
        self._transport.close()

    # -- frames

    def _take(self, frame: FromChild) -> None:
        if isinstance(frame, Output):
            for event in frame.events:
                self._deliver(event)
            if frame.record is not None:
                self.last_step = frame.record
                self.steps += 1
                self._on_step(frame.record)
        elif isinstance(frame, KvReport):
            self.kv = frame
            if self.on_report is not None:
                self.on_report(frame)
        elif isinstance(frame, WeightsReport):
            self.weights = frame
        elif isinstance(frame, Sequences):
            self.sequences = frame
        elif isinstance(frame, Stage):
            self._enter(frame.name)
            self._on_stage(frame.name, frame.fraction)
        elif isinstance(frame, Ids | Text | Purged):
            value = frame.tokens if isinstance(frame, Ids) else frame.text if isinstance(frame, Text) else frame
            self._answer(frame.id, value)
        elif isinstance(frame, Ready):
            self.info, self.rss, self.rates = frame.info, frame.rss, frame.rates
            self._enter("serving")
            if not self._loaded.done():
                self._loaded.set_result(None)
        elif isinstance(frame, LoadFailed) and not self._loaded.done():
            self._loaded.set_exception(rebuild(frame.kind, frame.message, frame.hint))

    def _enter(self, phase: str) -> None:
        now = time.monotonic()
        if phase != self.phase:
            self.stages[self.phase] = round(now - self._phase_began, 4)
            self.phase, self._phase_began = phase, now

    def _deliver(self, event: Event) -> None:
        queue = self._jobs.get(event.job)
        if queue is None:
            return
        if isinstance(event, Rejected):
            queue.put_nowait(rebuild(event.kind, event.message, event.hint, event.numbers))
        else:
            if isinstance(event, Token):
                self._answering.add(event.job)
            elif isinstance(event, Finish) and event.usage.paged is not None:
                self.paged = event.usage.paged.after(self.paged) if self.paged else event.usage.paged
            queue.put_nowait(event)

    def _answer(self, number: int, value: list[int] | str | Purged) -> None:
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(value)

    def _fail(self, error: EngineDied) -> None:
        if self.died is not None:
            return
        self.died = error
        serving = self._loaded.done()
        if not serving:
            self._loaded.set_exception(error)
        for queue in self._jobs.values():
            queue.put_nowait(self._again(error))
        for future in self._asked.values():
            if not future.done():
                future.set_exception(self._again(error))
        if serving and not self._stopping and self.on_death is not None:
            self.on_death(error)

    def _step(self) -> DeathStep:
        if self.phase == "serving":
            return "prefill" if len(self._answering) < len(self._jobs) else "decode"
        return "self-test" if self.phase == "self-test" else "load"

    def _obituary(self, code: int | None) -> EngineDied:
        step = self._step()
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        if self._stopping:
            return EngineDied("the engine was stopped", "ask again", cause="stopped", step=step)
        while_ = {"serving": "while answering", "self-test": "in its self-test"}.get(self.phase, "while loading")
        verb = "was killed by" if cause.startswith("SIG") else "ended with"
        message = f"the engine process {verb} {cause} {while_}"
        if self.order.rpc:
            message += f"; it used RPC workers ({', '.join(self.order.rpc)}), and dies with any of them"
        return EngineDied(message, "ask again: a new engine starts", cause=cause, step=step)
