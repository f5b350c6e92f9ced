"""A model's answer as it is written: text enters in pieces of any size; content, reasoning and tool calls leave.

The engine must spell out the control tokens named in `markers`. What looks like a call and is none is content: no
text is lost, and nothing here raises.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from localai.callsyntax import NotACall, read_named_call, read_object_call, read_parameters_call, read_python_calls
from localai.harmony import read_harmony
from localai.jsonstream import SPACE
from localai.messages import Tool, ToolCallDelta
from localai.textstream import Reading, TextStream
from localai.toolformats import CHANNELS, MISTRAL, MISTRAL_LIST, TOOL_CODE, ReasoningFormat, ToolFormat

_MAX_FAILED = 32
_SHORT = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


Piece = Content | Reasoning | ToolCallDelta


class OutputParser:
    """Turns the text of one answer into pieces.

    With `format` None or no `tools`, nothing is a call. `starts_in_reasoning`: the prompt ends inside a reasoning
    block. `forced`: a grammar made the model call a tool, so a bare JSON object is a call whatever its name, and a call
    that repeats an earlier one of the answer is left out with all behind it: it had no other way to go on.
    `markers` are the control tokens that the engine must leave visible. `calls` counts the calls that are complete;
    `broken` holds the indexes of those that were begun and then turned out not to be calls: their text is repeated
    as content, and whoever collects whole calls leaves them out. The last of them may be `cut`: the answer ended there.
    """

    def __init__(
        self,
        format: ToolFormat | None,  # noqa: A002
        *,
        reasoning: ReasoningFormat | None,
        starts_in_reasoning: bool,
        tools: Sequence[Tool],
        forced: bool,
    ) -> None:
        self._format = format if tools else None
        self._reasoning = reasoning
        self._starts_in_reasoning = starts_in_reasoning
        self._tools = {tool.name: tool for tool in tools}
        self._known = None if forced else frozenset(self._tools)
        self._stream = TextStream()
        self._forced = forced and self._format is not None
        self._out = _Pieces(short_ids=format is not None and format.short_ids, once=self._forced)
        self._early = False
        self.cut = False
        self._failed = 0
        self._reader: Generator[None, None, None] | None = self._read()
        next(self._reader)

    @property
    def markers(self) -> tuple[str, ...]:
        both = (self._format.markers if self._format else ()) + (self._reasoning.markers if self._reasoning else ())
        return tuple(dict.fromkeys(both))

    @property
    def calls(self) -> int:
        return self._out.complete

    @property
    def broken(self) -> frozenset[int]:
        return frozenset(self._out.broken)

    @property
    def repeats(self) -> bool:
        """True where a forced call repeated an earlier one: nothing that comes behind it counts."""
        return self._out.repeated

    def feed(self, text: str) -> list[Piece]:
        """Take more of the answer; return what is certain by now."""
        if self._reader is None:
            raise ValueError("the parser is closed")
        if text:
            self._stream.append(text)
            next(self._reader)
        return self._out.drain()

    def close(self, *, early: bool = False) -> list[Piece]:
        """The answer has ended, `early` where something else than the model ended it; return the rest."""
        if self._reader is not None:
            self._stream.closed, self._early = True, early
            for _ in self._reader:
                pass
            self._reader = None
        rest = self._out.drain()
        if early and self._forced:
            # Nothing but the beginning of another call can be left.
            return [piece for piece in rest if not isinstance(piece, Content)]
        return rest

    def _read(self) -> Reading[None]:
        try:
            yield from self._read_answer()
        except _Repeated:
            yield from self._stream.until((), lambda _: None)
        self._out.end()

    def _read_answer(self) -> Reading[None]:
        style, reasoning = self._format, self._reasoning
        if reasoning is CHANNELS or (style is not None and style.syntax == "channels"):
            yield from read_harmony(self._stream, self._out, self._attempt if style else None)
        else:
            reasoned = yield from self._read_reasoning()
            if reasoned:
                yield from self._stream.skip(SPACE)
            if style is not None and style.bare:
                yield from self._read_bare(style)
            yield from self._read_content(reasoning.wrappers if reasoning and reasoned else ())

    def _read_reasoning(self) -> Reading[bool]:
        style, stream = self._reasoning, self._stream
        if style is None:
            return False
        stream.hold += 1
        start = stream.at
        yield from stream.skip(SPACE)
        opened = yield from stream.one_of((style.open,))
        stream.hold -= 1
        if not opened:
            stream.at = start
            if not self._starts_in_reasoning:
                return False
        yield from stream.skip(SPACE)
        yield from stream.until((style.close,), self._out.reasoning)
        return True

    def _read_bare(self, style: ToolFormat) -> Reading[None]:
        stream = self._stream
        stream.hold += 1
        start = stream.at
        yield from stream.skip(SPACE)
        if (yield from stream.peek()) == "{":
            yield from self._read_block(style, "", start)
        else:
            stream.at = start
        stream.hold -= 1

    def _read_content(self, wrappers: tuple[str, ...]) -> Reading[None]:
        stream, style = self._stream, self._format
        while True:
            openers = style.openers if style and self._failed < _MAX_FAILED else ()
            # Space before a call is not part of the answer, so it waits for what follows.
            self._out.hold_space = bool(openers)
            found = yield from stream.until((*openers, *wrappers), self._out.content)
            if not found:
                return
            if style is not None and found in openers:
                stream.hold += 1
                yield from self._read_block(style, found, stream.at - len(found))
                stream.hold -= 1

    def _read_block(self, style: ToolFormat, opener: str, start: int) -> Reading[None]:
        """Read calls from behind `opener`, which stands at `start`, up to the first thing that is none."""
        stream = self._stream
        if opener == "[TOOL_CALLS]":
            style = MISTRAL_LIST if (yield from stream.peek()) == "[" else MISTRAL
        behind, known = start + len(opener), None if opener else self._known
        while (yield from self._attempt(self._read_call(style, opener, known), start, behind)):
            ended = yield from self._read_closers(style)
            if ended or style.syntax != "object" or (yield from stream.peek()) != "{":
                return
            opener, start, behind = "", stream.at, stream.at

    def _read_call(self, style: ToolFormat, opener: str, known: frozenset[str] | None) -> Reading[None]:
        stream, out = self._stream, self._out
        if opener == TOOL_CODE or style.syntax == "python":
            ends = ("```",) if opener == TOOL_CODE else style.closers
            yield from read_python_calls(stream, out, ends)
        elif style.syntax == "named":
            yield from read_named_call(stream, out, style.header)
        else:
            yield from stream.skip(SPACE + style.between)
            if opener == "<function=" or (yield from stream.one_of(("<function=",))):
                yield from read_parameters_call(stream, out, self._tools)
            else:
                yield from read_object_call(stream, out, known)

    def _read_closers(self, style: ToolFormat) -> Reading[bool]:
        """Pass over what may stand behind a call; True if that ends the block."""
        stream = self._stream
        ended = False
        while True:
            start = stream.at
            yield from stream.skip(SPACE + style.between)
            if not (yield from stream.one_of(style.closers)):
                break
            ended = True
        if ended or (yield from stream.peek()) != "{":
            while stream.at > start and stream.text[stream.at - 1] in SPACE:
                stream.at -= 1
        return ended

    def _attempt(self, call: Reading[None], start: int, behind: int) -> Reading[bool]:
        """Read a call; where it is none, its text is content and False returned.

        The text from `start`, where its opener stands, to `behind` it, goes out at once, and the rest is looked at
        again; a call that the model's own end cuts short goes out whole. What another end cuts short stays the
        beginning of a call. Raises _Repeated behind a forced call that was there before.
        """
        stream, out = self._stream, self._out
        opened = out.opened
        try:
            yield from call
        except NotACall:
            self._failed += 1
            self.cut = out.give_up(opened) and self._early
            stream.at = len(stream.text) if stream.closed else behind
            if not self.cut:
                out.content(stream.text[start : stream.at])
            return False
        out.settle()
        out.complete += out.opened - opened
        if out.repeated:
            raise _Repeated
        return True


class _Repeated(Exception):
    """The model says again what it has said."""


class _Pieces:
    """Collects pieces: joins neighbours, drops the space around reasoning and calls, numbers and names calls.

    With `once`, a call is held back for as long as it may turn out to be an earlier one, and then dropped.
    """

    def __init__(self, short_ids: bool, once: bool) -> None:
        self._short_ids = short_ids
        self._once = once
        self._whole: list[str] = []
        self._open: ToolCallDelta | None = None
        self._held = False
        self.repeated = False
        self._pieces: list[Piece] = []
        self._space = ""
        self._thought_space = ""
        self._spoken = False
        self._thought = False
        self._break = False
        self.hold_space = True
        self.opened = 0
        self.complete = 0
        self.broken: set[int] = set()

    def content(self, text: str) -> None:
        text = self._space + text
        if not self._spoken and self.opened:
            text = text.lstrip(SPACE)
        body = text.rstrip(SPACE) if self.hold_space else text
        self._space = text[len(body) :]
        if body:
            gap = "\n\n" if self._break and self._spoken else ""
            self._break, self._spoken = False, True
            self._pieces.append(Content(gap + body))

    def reasoning(self, text: str) -> None:
        text = self._thought_space + text
        body = text.rstrip(SPACE)
        self._thought_space = text[len(body) :]
        if body:
            gap = "\n\n" if self._break and self._thought else ""
            self._break, self._thought = False, True
            self._pieces.append(Reasoning(gap + body))

    def new_message(self) -> None:
        self._break = True
        self._space = self._thought_space = ""

    def open(self, name: str) -> None:
        self.settle()
        self._space = ""
        call = ToolCallDelta(self.opened, new_call_id(self._short_ids), name, "")
        self.opened += 1
        if self._once:
            self._open, self._held = call, True
            self._release()
        else:
            self._pieces.append(call)

    def write(self, text: str) -> None:
        if self._open is not None:
            self._open = replace(self._open, arguments=self._open.arguments + text)
        if self._held:
            self._release()
        elif text:
            self._pieces.append(ToolCallDelta(self.opened - 1, None, None, text))

    def _release(self) -> None:
        """Let the held call go where no earlier one begins like it."""
        if self._open is not None and not any(known.startswith(_spelled(self._open)) for known in self._whole):
            self._held = False
            self._pieces.append(self._open)

    def settle(self) -> None:
        """The call that is open is whole."""
        if self._open is None:
            return
        if self._held:
            # Of two whole calls neither can be the beginning of the other: this one was there before.
            self.opened -= 1
            self.repeated = True
        else:
            self._whole.append(_spelled(self._open))
        self._open, self._held = None, False

    def give_up(self, first: int) -> bool:
        """The calls from number `first` on were none; True where one of them was seen."""
        self.opened -= self._held
        self._open, self._held = None, False
        self.broken.update(range(first, self.opened))
        return self.opened > first

    def end(self) -> None:
        if not self.opened and self._space:
            self._pieces.append(Content(self._space))
        self._space = ""

    def drain(self) -> list[Piece]:
        joined: list[Piece] = []
        for piece in self._pieces:
            last = joined[-1] if joined else None
            if isinstance(piece, Content) and isinstance(last, Content):
                joined[-1] = Content(last.text + piece.text)
            elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
                joined[-1] = Reasoning(last.text + piece.text)
            elif isinstance(piece, ToolCallDelta) and isinstance(last, ToolCallDelta) and piece.name is None:
                joined[-1] = replace(last, arguments=last.arguments + piece.arguments)
            else:
                joined.append(piece)
        self._pieces = []
        return joined


def _spelled(call: ToolCallDelta) -> str:
    return f"{call.name} {call.arguments}"


def new_call_id(short: bool = False) -> str:
    """A fresh id for a call: `call_` and 24 characters, or 9 letters and digits."""
    return "".join(secrets.choice(_SHORT) for _ in range(9)) if short else "call_" + secrets.token_hex(12)
