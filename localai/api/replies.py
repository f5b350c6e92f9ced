"""Answers in conversations while they are written: each goes on to its end, whoever still reads it.

The events of a turn enter; the same events leave to one reader, and text with figures to the conversation. An answer
that nobody reads any more, or that is asked to stop, ends at its engine's next step, with what it took.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from threading import Lock
from typing import Any

from localai.api.openai_out import recalled, timings, usage
from localai.api.tools import used_json
from localai.conversations import Conversations, StoredMessage
from localai.errors import LocalaiError
from localai.halting import Halt
from localai.messages import ChoiceDone, Delta, Recalled, Started, Summary, ToolUsed, TurnEvent

PATIENCE_S = 10.0
"""Seconds that an engine gets to end an answer by itself; after that its figures are given up."""
_FLUSH_S = 0.25
"""Seconds of received text that a crash of the daemon may cost."""
_log = logging.getLogger("localai")


class Replies:
    """All answers that are being written, by conversation. Used on the daemon's event loop."""

    def __init__(self, kept: Conversations) -> None:
        self._kept = kept
        self._running: set[Reply] = set()

    def begin(self, events: AsyncGenerator[TurnEvent, None], message: StoredMessage, halt: Halt) -> Reply:
        """Write `events` down as the content of `message`; `halt` is what ends them early."""
        reply = Reply(_kept(events, self._kept, message), message.conversation, halt)
        self._running.add(reply)
        reply.task.add_done_callback(lambda _: self._running.discard(reply))
        return reply

    def stop(self, conversation: str) -> int:
        """Ask the answers of a conversation to end; how many there are."""
        found = [reply for reply in self._running if reply.conversation == conversation]
        for reply in found:
            reply.stop()
        return len(found)

    async def close(self) -> None:
        """End all, and return when they are written down."""
        tasks = [reply.task for reply in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Reply:
    """One answer that is being written."""

    def __init__(self, events: AsyncGenerator[TurnEvent, None], conversation: str, halt: Halt) -> None:
        self.conversation = conversation
        self._halt = halt
        self._queue: asyncio.Queue[TurnEvent | None] = asyncio.Queue()
        self.task = asyncio.get_running_loop().create_task(self._run(events))
        self.task.add_done_callback(_looked_at)

    def stop(self) -> None:
        """Once the engine works on it, that is told to end it; before, there is nothing to wait for."""
        if self.task.done() or self._halt.asked:
            return
        if self._halt.ask():
            asyncio.get_running_loop().call_later(PATIENCE_S, self.task.cancel)
        else:
            self.task.cancel()

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """What comes of it, for one reader; when that goes away, the answer is stopped. Raises what the turn raised."""
        try:
            while (event := await self._queue.get()) is not None:
                yield event
            await asyncio.wait({self.task})
            if self.task.cancelled():
                yield ChoiceDone(0, "cancelled")
            else:
                self.task.result()
        finally:
            self.stop()

    async def _run(self, events: AsyncGenerator[TurnEvent, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._queue.put_nowait(event)
        finally:
            self._queue.put_nowait(None)


def _looked_at(task: asyncio.Task[None]) -> None:
    """What went wrong is the reader's to hear; where there is none any more, it must not be called unheard."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, LocalaiError):
        _log.error("an answer failed", exc_info=error)


async def _kept(
    events: AsyncGenerator[TurnEvent, None], kept: Conversations, message: StoredMessage
) -> AsyncGenerator[TurnEvent, None]:
    """Pass events on and write the answer down as it comes, so that neither side's crash loses what was said."""
    notes = _Notes(kept, message)
    reason, spent, model = "cancelled", None, None
    figures: dict[str, Any] = {}
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    model = event.model
                    figures |= {"backend": event.backend, "reason": event.reason, "n_ctx": event.n_ctx or None}
                elif isinstance(event, Recalled):
                    figures |= recalled(event)
                elif isinstance(event, Delta):
                    await notes.take(event)
                elif isinstance(event, ToolUsed):
                    figures["tools"] = [*figures.get("tools", ()), used_json(event)]
                elif isinstance(event, ChoiceDone):
                    reason = event.reason
                elif isinstance(event, Summary):
                    spent = usage(event)
                    figures["timings"] = timings(event)
                yield event
    except LocalaiError:
        reason = "error"
        raise
    finally:
        notes.write()
        kept.finish(message.id, reason, spent, model=model, figures=figures or None)


class _Notes:
    """Text of a message that is not written down yet."""

    def __init__(self, kept: Conversations, message: StoredMessage) -> None:
        self._kept = kept
        self._message = message
        self._deltas: list[Delta] = []
        self._turn = Lock()
        self._written = time.monotonic()

    async def take(self, delta: Delta) -> None:
        self._deltas.append(delta)
        if time.monotonic() - self._written > _FLUSH_S:
            self._written = time.monotonic()
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write what is held. Not awaited at the end, because a request that is being cancelled cannot wait.

        A write in a thread outlives its cancelled waiter; the lock keeps its text before this one's.
        """
        with self._turn:
            deltas, self._deltas = self._deltas, []
            content = "".join(delta.content for delta in deltas)
            self._kept.extend(self._message.id, content, reasoning="".join(delta.reasoning for delta in deltas))
