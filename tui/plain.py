"""The chat as lines of text, for screen readers, pipes and terminals that can do no more: no colours, no redrawing."""

from __future__ import annotations

from typing import TextIO
from urllib.parse import quote

from localai.client import Client
from localai.errors import LocalaiError
from tui.gauges import figures_text, names_text, progress_text
from tui.reply import Reply
from tui.turns import ending_text
from tui.wire import Created, Figures, Finished, Progress, ReplyEvent, Text, chat_of

_HELP = "Type a message, or /again, /new, /quit. A line that ends in a backslash goes on in the next."


def run_plain(client: Client, source: TextIO, to: TextIO, conversation: str | None, model: str | None) -> None:
    """Read messages from `source` and write answers to `to`, until `source` ends or /quit. Closes the client."""
    try:
        _Talk(client, to, conversation, model).run(source)
    finally:
        client.close()


class _Talk:
    def __init__(self, client: Client, to: TextIO, conversation: str | None, model: str | None) -> None:
        self._client = client
        self._to = to
        self._conversation = conversation
        self._model = model
        self._asked: str | None = None

    def run(self, source: TextIO) -> None:
        self._say(_HELP)
        if self._conversation is not None:
            self._read_out(self._conversation)
        held = ""
        self._ready()
        for line in source:
            if line.endswith("\\\n"):
                held += line[:-2] + "\n"
                continue
            text, held = (held + line).strip(), ""
            if text == "/quit":
                return
            self._take(text)
            self._ready()

    def _take(self, text: str) -> None:
        if text == "/new":
            self._conversation = self._asked = None
            self._say("A new conversation.")
        elif text == "/again":
            self._answer({} if self._asked is None else {"parent": self._asked})
        elif text:
            self._answer({"content": text})

    def _answer(self, body: dict[str, object]) -> None:
        reply = Reply(self._client, self._conversation, self._model, dict(body))
        try:
            for event in reply.events():
                self._tell(event)
        except LocalaiError as error:
            self._say(f"\nError: {error.message}. {error.hint}")
        except KeyboardInterrupt:
            reply.stop()
            self._say("\nstopped")
        self._asked = reply.asked or self._asked

    def _tell(self, event: ReplyEvent) -> None:
        match event:
            case Created():
                self._conversation = event.conversation
            case Progress():
                self._say(f"({progress_text(event)})")
            case Text():
                self._to.write(event.content)
                self._to.flush()
            case Finished():
                ending = ending_text(event.reason)
                self._say(f"\n({ending})" if ending else "")
            case Figures():
                self._say(f"({', '.join((*names_text(event), *figures_text(event)))})")

    def _read_out(self, conversation: str) -> None:
        chat = chat_of(self._client.get(f"/localai/conversations/{quote(conversation)}"))
        for message in chat.messages:
            self._say(f"{'You' if message.role == 'user' else 'Answer'}: {message.content}")
            self._asked = message.id if message.role == "user" else self._asked

    def _ready(self) -> None:
        self._to.write("You: ")
        self._to.flush()

    def _say(self, text: str) -> None:
        self._to.write(text + "\n")
        self._to.flush()
