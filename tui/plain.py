"""The chat as lines of text, for screen readers, pipes and terminals that can do no more: no colours, no redrawing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TextIO

from localai.client import Client
from localai.errors import LocalaiError
from localai.sanitize import one_line
from tui.gauges import figures_text, names_text, progress_text
from tui.plain_commands import COMMANDS, Standing
from tui.reply import Reply
from tui.turns import ending_text
from tui.wire import Created, Figures, Finished, Progress, ReplyEvent, Text, understood

_HELP = (
    "Type a message, or /help for commands. Ctrl+C stops an answer. "
    "A line that ends in a backslash goes on in the next."
)
_LOOK_S = 0.03


def run_plain(
    client: Client,
    source: TextIO,
    to: TextIO,
    conversation: str | None,
    model: str | None,
) -> None:
    """Read messages from `source` and write answers to `to`, until `source` ends or /quit. Closes the client."""
    try:
        _Talk(client, to, conversation, model).run(source)
    finally:
        client.close()


class _Talk:
    def __init__(self, client: Client, to: TextIO, conversation: str | None, model: str | None) -> None:
        self._client = client
        self._to = to
        self._progress = ""
        self._now = Standing(client, self._say, conversation, model, Path.cwd())

    def run(self, source: TextIO) -> None:
        self._say(_HELP)
        if self._now.conversation is not None:
            self._do(self._now.read_out)
        held = ""
        self._ready()
        for line in source:
            if line.endswith("\\\n"):
                held += line[:-2] + "\n"
                continue
            text, held = (held + line).strip(), ""
            if text == "/quit":
                break
            self._do(lambda text=text: self._take(text))  # type: ignore[misc]
            self._ready()
        if self._now.conversation is not None:
            self._say(f"\n`localai chat --plain -c {self._now.conversation}` goes on with this conversation.")

    def _take(self, text: str) -> None:
        word, _, argument = text.partition(" ")
        command = COMMANDS.get(word)
        if text == "/again":
            self._answer({} if self._now.asked is None else {"parent": self._now.asked})
        elif command is not None:
            command.act(self._now, argument.strip())
        elif word.startswith("/") and word.count("/") == 1:
            self._say(f"There is no command {one_line(word)}. /help lists all.")
        elif text:
            self._answer({"content": text})

    def _do(self, work: Callable[[], None]) -> None:
        """What goes wrong is said, and costs nothing else."""
        try:
            with understood():
                work()
        except LocalaiError as error:
            self._say(f"\nError: {error.message}. {error.hint}")
        except KeyboardInterrupt:
            self._say("\n(stopped)")

    def _answer(self, body: dict[str, object]) -> None:
        now = self._now
        reply = Reply(self._client, now.conversation, now.model, {**now.options, **body})
        Thread(target=reply.run, daemon=True).start()
        arrived: deque[ReplyEvent] = deque()
        over, self._progress = False, ""
        while not over or arrived:
            try:
                # Asked before the inbox is emptied, so that nothing can come in between.
                over = reply.over
                arrived.extend(reply.take())
                while arrived:
                    self._tell(arrived[0], stopped=reply.stopped)
                    arrived.popleft()
                time.sleep(0.0 if over else _LOOK_S)
            except KeyboardInterrupt:
                self._stop(reply)
        now.asked = reply.asked or now.asked
        if reply.error is not None:
            raise reply.error

    def _stop(self, reply: Reply) -> None:
        """With what it took; asked for twice, without waiting for that."""
        if reply.stopped:
            reply.close()
        else:
            reply.stopped = True
            self._say("\n(stopping…)")
            Thread(target=reply.stop, daemon=True).start()

    def _tell(self, event: ReplyEvent, *, stopped: bool) -> None:
        match event:
            case Created():
                self._now.conversation = event.conversation
            case Progress() if progress_text(event) != self._progress:
                self._progress = progress_text(event)
                self._say(f"({self._progress})")
            case Text():
                self._to.write(event.content)
                self._to.flush()
            case Finished():
                ending = ending_text("cancelled" if stopped else event.reason)
                self._say(f"\n({ending})" if ending else "")
            case Figures():
                self._now.figures = event
                if event.stopped and not stopped:
                    self._say(f"({event.stopped})")
                if event.memory_fallback:
                    self._say(f"(memories were found by {event.memory_fallback})")
                self._say(f"({', '.join((*names_text(event), *figures_text(event)))})")

    def _ready(self) -> None:
        self._to.write("You: ")
        self._to.flush()

    def _say(self, text: str) -> None:
        self._to.write(text + "\n")
        self._to.flush()
