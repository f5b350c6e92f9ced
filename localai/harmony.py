"""Harmony, the message syntax of gpt-oss: headers say for each message which channel it is on and to whom it goes.

`analysis` is reasoning, `final` and preambles on `commentary` are the answer, messages to `functions.NAME` are calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from localai.callsyntax import CallSink, NotACall, checked_name
from localai.jsonstream import SPACE, NotJson, read_value
from localai.textstream import Reading, TextStream

_MAX_HEADER = 512
_BEGINS = ("<|start|>", "<|channel|>", "<|message|>", "to=functions.")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")
_HEADER = re.compile(
    r"\s*(<\|start\|>)?\s*(assistant)?(\s+to=[^\s<]+)?\s*(<\|channel\|>\s*\w*)?(\s*to=[^\s<]+)?\s*(<\|constrain\|>)?\s*\w*\s*"
)


class HarmonySink(CallSink, Protocol):
    """Takes what the messages hold."""

    def content(self, text: str) -> None: ...

    def reasoning(self, text: str) -> None: ...

    def new_message(self) -> None:
        """The text that follows belongs to another message than the text before."""


# Reads a call whose opener stands at a position; takes that back as content where it is none.
Attempt = Callable[[Reading[None], int, int], Reading[bool]]


def read_harmony(stream: TextStream, sink: HarmonySink, attempt: Attempt | None) -> Reading[None]:
    """Read messages up to the end of the text; messages to functions are calls if there is an `attempt`."""
    while (yield from stream.peek()):
        stream.hold += 1
        start = stream.at
        header = yield from _read_header(stream)
        sink.new_message()
        out = sink.content
        if header is None:
            stream.at = start
            # What begins like a header and is none is text, and must not be taken for the next one again.
            out((yield from stream.one_of(_BEGINS)))
        else:
            channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
            if recipient and attempt:
                yield from attempt(_read_call(stream, sink, recipient[1]), start, stream.at)
            elif channel and channel[1] == "analysis":
                out = sink.reasoning
        stream.hold -= 1
        found = yield from stream.until(_ENDS, out)
        if found in ("<|start|>", "<|channel|>"):
            stream.at -= len(found)


def _read_header(stream: TextStream) -> Reading[str | None]:
    """What stands before `<|message|>`, past which the stream is left; None where no header comes next."""
    start = stream.at
    yield from stream.skip(SPACE)
    if not (yield from stream.one_of(_BEGINS)):
        return None
    stream.at = start
    parts: list[str] = []
    while not (yield from stream.one_of(("<|message|>",))):
        parts.append((yield from stream.take(1)))
        if not parts[-1] or len(parts) > _MAX_HEADER:
            return None
    header = "".join(parts)
    return header if _HEADER.fullmatch(header) else None


def _read_call(stream: TextStream, sink: HarmonySink, name: str) -> Reading[None]:
    sink.open(checked_name(name))
    try:
        yield from stream.skip(SPACE)
        if (yield from stream.peek()) == "{":
            yield from read_value(stream, sink.write)
        elif (yield from stream.one_of(_ENDS)):
            sink.write("{}")
        else:
            raise NotACall
    except NotJson as error:
        raise NotACall from error
    yield from stream.skip(SPACE)
