"""Requests in threads: a call goes out, its value or its error comes back to the screen that asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from textual.message import Message
from textual.screen import Screen
from textual.worker import get_current_worker

from localai.errors import LocalaiError
from localai.sanitize import clean, one_line
from tui.wire import understood

PULL = "/localai/pull"
ResultT = TypeVar("ResultT")
Value = TypeVar("Value")


class Fetched(Message, bubble=False):
    """`value` has come; `then` takes it, `again` repeats the request."""

    def __init__(self, then: Callable[[Any], object], value: object, again: Callable[[], object]) -> None:
        super().__init__()
        self.again = again
        self.then = then
        self.value = value


class Failed(Message, bubble=False):
    """A request has failed; `again` repeats it."""

    def __init__(self, error: LocalaiError, again: Callable[[], object]) -> None:
        super().__init__()
        self.error = error
        self.again = again


class FetchingScreen(Screen[ResultT]):
    """A screen that asks the daemon. What went wrong is handed to `fetch_failed`."""

    def fetch(
        self, call: Callable[[], Value], then: Callable[[Value], object], again: Callable[[], object] | None = None
    ) -> None:
        """Run `call` in a thread and `then` with its value here; `again` is what a retry does, by default the same."""

        repeat = again or (lambda: self.fetch(call, then))

        def work() -> None:
            worker = get_current_worker()
            try:
                with understood():
                    value = call()
            except LocalaiError as error:
                if not worker.is_cancelled:
                    self.post_message(Failed(error, repeat))
                return
            if not worker.is_cancelled:
                self.post_message(Fetched(then, value, repeat))

        self.run_worker(work, thread=True, exit_on_error=True)

    async def on_fetched(self, event: Fetched) -> None:
        try:
            with understood():
                result = event.then(event.value)
        except LocalaiError as error:
            await self.fetch_failed(error, event.again)
            return
        if inspect.isawaitable(result):
            await result

    async def on_failed(self, event: Failed) -> None:
        await self.fetch_failed(event.error, event.again)

    async def fetch_failed(self, error: LocalaiError, again: Callable[[], object]) -> None:
        """Say it; screens that can try again by a key say more."""
        self.notify(f"{error.message}. {error.hint}".strip(), severity="error", markup=False)


def pull_text(progress: dict[str, Any]) -> str:
    """`downloading model.gguf 40%`."""
    total, done = progress.get("total"), progress.get("completed")
    share = f" {done / total:.0%}" if total and done is not None else ""
    return one_line(clean(str(progress.get("status") or ""))) + share
