"""A long conversation made short: a summary by its own model begins a new one, with the last exchange after it.

It blocks, and belongs to a thread. The long conversation stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from localai.client import Client, EventStream
from localai.errors import BadRequest, LocalaiError
from tui.wire import Text, reply_events

_ROOT = "/localai/conversations"
_KEPT = 2
"""Messages at the end that stay as they are: the last question and its answer."""
_CONTEXT = 2048
"""Tokens to reckon with where it is not known how many are served."""
_LETTERS = 2
"""Characters of a piece for each token of the context: a piece and its summary then take about two thirds of it."""
_ASK = (
    "Summarise this conversation for somebody who goes on with it. Keep facts, names, numbers, decisions and open "
    "questions; leave out courtesies. Write plain sentences."
)


@dataclass(frozen=True, slots=True)
class Compacted:
    """The new conversation, and in words what has become of how much."""

    conversation: str
    text: str


class Compacting:
    """`run` may be cut short by `stop` from another thread; it then gives None and has changed nothing."""

    def __init__(self, client: Client, conversation: str, model: str | None, context: int | None) -> None:
        self._client = client
        self._path = f"{_ROOT}/{quote(conversation)}"
        self._model = model
        self._room = _LETTERS * (context or _CONTEXT)
        self._stream: EventStream | None = None
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.close()

    def run(self, say: Callable[[str], object]) -> Compacted | None:
        """The new conversation. `say` is told how far it is. Raises LocalaiError."""
        chat = self._client.get(self._path)
        said = [message for message in chat["messages"] if message["role"] in ("user", "assistant")]
        if len(said) <= _KEPT:
            raise BadRequest("there is nothing to make shorter yet", "go on talking")
        pieces, summary = pieces_of(said[:-_KEPT], self._room), ""
        for number, piece in enumerate(pieces, 1):
            say(f"compacting, part {number} of {len(pieces)}…")
            summary = self._summary(f"{summary}\n\n{piece}".strip())
            if self._stopped:
                return None
        system = "\n\n".join(filter(None, (chat.get("system"), f"What was said before, in short:\n{summary}")))
        made = self._begun(chat, system, said[-_KEPT:])
        count, words = len(said) - _KEPT, len(summary.split())
        before = sum(len(message["content"].split()) for message in said[:-_KEPT])
        messages = f"{count:,} message{'s' * (count != 1)} of {before:,} words"
        return Compacted(made, f"{messages} became a summary of {words:,} words; the last {_KEPT} messages stay.")

    def _summary(self, text: str) -> str:
        body = {
            "messages": [{"role": "system", "content": _ASK}, {"role": "user", "content": text}],
            "max_tokens": max(64, self._room // (4 * _LETTERS)),
            "temperature": 0,
            "stream": True,
            "model": self._model or "default",
        }
        self._stream = self._client.stream("/v1/chat/completions", body)
        found = [
            event.content for arrived in self._stream for event in reply_events(arrived) if isinstance(event, Text)
        ]
        if not self._stopped and not "".join(found).strip():
            raise LocalaiError("the model wrote no summary", "choose another model with F4")
        return "".join(found).strip()

    def _begun(self, chat: dict[str, Any], system: str, last: list[dict[str, Any]]) -> str:
        messages = [{"role": m["role"], "content": m["content"]} for m in last]
        content = {
            "model": self._model or chat["model"],
            "messages": [{"role": "system", "content": system}, *messages],
        }
        made: str = self._client.post(f"{_ROOT}/import", {"content": content})["conversations"][0]["id"]
        self._client.patch(f"{_ROOT}/{made}", {"title": f"{chat['title'] or 'Untitled'}, compacted"})
        return made


def pieces_of(messages: list[dict[str, Any]], room: int) -> list[str]:
    """The talk in pieces of at most `room` characters, cut between messages where that is possible."""
    pieces = [""]
    for message in messages:
        text = f"{'Person' if message['role'] == 'user' else 'Assistant'}: {message['content']}\n\n"
        if len(pieces[-1]) + len(text) > room:
            pieces.append("")
        pieces += [text[at : at + room] for at in range(0, len(text), room)] if len(text) > room else []
        pieces[-1] += text if len(text) <= room else ""
    return [piece.strip() for piece in pieces if piece.strip()]
