"""One answer being fetched: a thread reads the stream into an inbox, the screen empties it at its own pace.

It knows the routes, and nothing of widgets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from localai.client import Client, EventStream
from localai.errors import LocalaiError
from tui.wire import Called, Created, Opened, ReplyEvent, Text, reply_events, understood

_STOP_S = 5.0
"""Seconds that the daemon gets to take the wish to stop."""


class Reply:
    """`run` belongs to a thread of its own; the rest may be called from any. `asked` is the id of a stored question."""

    def __init__(self, client: Client, conversation: str | None, model: str | None, body: dict[str, Any]) -> None:
        """`conversation` None: one is created first. `body` is that of the reply request, without the model."""
        self._client = client
        self._conversation = conversation
        self._model = model
        self._body = body if model is None else {**body, "model": model}
        self._stream: EventStream | None = None
        self._inbox: deque[ReplyEvent] = deque()
        self.question: str | None = body.get("content")
        self.error: LocalaiError | None = None
        self.asked: str | None = None
        self.stopped = False
        self.over = False
        self._deltas = 0
        self._first_at = 0.0

    @property
    def rate(self) -> float | None:
        """Deltas per second since the first, roughly tokens/s; None before there are enough to say."""
        seconds = time.monotonic() - self._first_at
        return self._deltas / seconds if self._deltas > 8 else None

    def run(self) -> None:
        """Fetch the whole answer. A failure ends up in `error`; `over` is set last of all."""
        try:
            with understood():
                for event in self.events():
                    self._inbox.append(event)
        except LocalaiError as error:
            self.error = None if self.stopped else error
        finally:
            self.over = True

    def take(self) -> list[ReplyEvent]:
        """What has arrived since the last call, text that follows text in one piece."""
        taken: list[ReplyEvent] = []
        while self._inbox:
            event, last = self._inbox.popleft(), taken[-1] if taken else None
            if isinstance(event, Text) and isinstance(last, Text):
                taken[-1] = Text(last.content + event.content, last.reasoning + event.reasoning)
            else:
                taken.append(event)
        return taken

    def stop(self) -> None:
        """Have the daemon end the answer; its last events, with what it took, still come. Blocks."""
        self.stopped = True
        try:
            path = f"/localai/conversations/{self._conversation}/stop"
            stopping = self._client.post(path, {}, timeout=_STOP_S)["stopping"] if self._stream is not None else 0
        except (LocalaiError, KeyError):
            stopping = 0
        if not stopping:
            self.close()

    def close(self) -> None:
        """Close the connection, which makes the daemon stop generating; what has arrived stays."""
        self.stopped = True
        if self._stream is not None:
            self._stream.close()

    def events(self) -> Iterator[ReplyEvent]:
        """What comes, one after the other, for whoever has nothing else to do meanwhile. Raises LocalaiError."""
        if self._conversation is None:
            made = self._client.post("/localai/conversations", {"model": self._model} if self._model else {})
            self._conversation = str(made["id"])
            yield Created(self._conversation)
        self._stream = self._client.stream(f"/localai/conversations/{self._conversation}/reply", self._body)
        if self.stopped:
            return
        for arrived in self._stream:
            for event in reply_events(arrived):
                if isinstance(event, Text | Called):
                    self._first_at = self._first_at or time.monotonic()
                    self._deltas += 1
                elif isinstance(event, Opened):
                    self.asked = event.user
                yield event
