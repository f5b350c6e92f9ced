"""The entries of the transcript, each with its lines: questions, answers with thoughts and tool calls, notices.

Values of `wire` enter, painted lines leave. It knows nothing of the screen and of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.segment import Segment

from localai.attached import parted
from localai.errors import LocalaiError
from localai.sanitize import clean, one_line
from tui.document import Block, Document
from tui.painting import Line, Painter
from tui.wire import Figures, ShownMessage, ToolCall

_ENDINGS = {
    "stop": "",
    "tool_calls": "",
    "length": "cut at the token limit",
    "cancelled": "stopped",
    "deadline": "stopped at its deadline",
    "error": "failed",
}


@dataclass(slots=True, eq=False)
class Turn:
    """One entry. `id` is the daemon's id of the message, None while it has none.

    `fold` names what a click on a line toggles, by line number; `painted` is what is kept of the last painting.
    """

    role: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    id: str | None = None
    parent: str | None = None
    note: str = ""
    failed: bool = False
    unfolded: bool = False
    siblings: tuple[int, int] = (1, 1)
    figures: Figures = field(default_factory=Figures)
    document: Document | None = None
    folds: set[int] = field(default_factory=set)
    _painted: dict[int, tuple[Block, bool, list[Line]]] = field(default_factory=dict)
    _painter: Painter | None = None
    _parts: tuple[tuple[tuple[str, str], ...], str] | None = None

    @property
    def parts(self) -> tuple[tuple[tuple[str, str], ...], str]:
        """Of a question: the files that went along, as names with texts, and what was typed."""
        if self._parts is None:
            self._parts = parted(self.content)
        return self._parts

    def write(self, content: str, reasoning: str) -> None:
        """Append to an answer that is being written."""
        self.reasoning += reasoning
        if content:
            self.blocks_of().append(content)
            self.content += content

    def finish(self) -> None:
        """No more text comes."""
        if self.document is not None:
            self.document.finish()

    def blocks_of(self) -> Document:
        """The parsed text; parsed at the first use, because of long conversations little is ever seen."""
        if self.document is None:
            self.document = Document(self.content) if self.role == "assistant" else Document()
        return self.document

    def guess(self, width: int) -> int:
        """About how many lines it takes, without painting it."""
        room = max(8, width)
        files, text = self.parts if self.role == "user" else ((), self.content)
        return sum(1 + len(line) // room for line in text.split("\n")) + len(files) + 1 + bool(self.note)

    def lines(self, painter: Painter, *, selected: bool = False, marked: int | None = None) -> list[Line]:
        """All lines, the empty one after it too; `marked` is the number of the chosen fence."""
        if painter is not self._painter:
            self._painter, self._painted = painter, {}
        self.folds = set()
        body = self._answer(painter, marked) if self.role == "assistant" else self._plain(painter)
        if self.siblings[1] > 1:
            body += [[Segment(f"branch {self.siblings[0]} of {self.siblings[1]}", painter.palette.muted)]]
        if self.note:
            body += painter.text(self.note, painter.palette.error if self.failed else painter.palette.muted)
        return [*self._edged(body, painter, selected), []]

    def _plain(self, painter: Painter) -> list[Line]:
        palette = painter.palette
        if self.role == "notice":
            return painter.text(self.content, palette.error)
        if self.role == "info":
            return painter.text(self.content, palette.accent)
        if self.role == "user":
            return self._question(painter)
        return self._row(painter, f"{self.role}: {' '.join(self.content.split())[:60]}", self.content, 0)

    def _question(self, painter: Painter) -> list[Line]:
        files, typed = self.parts
        body: list[Line] = []
        for name, text in files:
            body += self._row(painter, f"{one_line(name)} ({_lines_text(text)})", text, len(body))
        style = painter.palette.text if self.id else painter.palette.muted
        return [*body, *painter.text(typed, style)] if typed.strip() or not files else body

    def _answer(self, painter: Painter, marked: int | None) -> list[Line]:
        body: list[Line] = []
        if self.reasoning:
            words = len(self.reasoning.split())
            body += self._row(painter, f"Thinking ({words} words)", self.reasoning, 0)
        for call in self.calls:
            title = f"Tool call {call.name}{'' if call.ok else ', which failed'}"
            inside = "\n".join(filter(None, (call.arguments, call.result)))
            body += self._row(painter, title, inside, len(body))
        fences = 0
        blocks = self.blocks_of().blocks
        for number, block in enumerate(blocks):
            count = sum(token.type in ("fence", "code_block") for token in block.tokens)
            chosen = marked is not None and fences <= marked < fences + count
            fences += count
            body += self._block(number, block, chosen, painter)
        for old in [number for number in self._painted if number >= len(blocks)]:
            del self._painted[old]
        return body[:-1] if blocks else body

    def _block(self, number: int, block: Block, marked: bool, painter: Painter) -> list[Line]:
        kept = self._painted.get(number)
        if kept is None or kept[0] is not block or kept[1] != marked:
            kept = self._painted[number] = (block, marked, painter.block(block, marked=marked))
        return kept[2]

    def _row(self, painter: Painter, title: str, inside: str, at: int) -> list[Line]:
        self.folds.add(at)
        head = [Segment(f"{'▾' if self.unfolded else '▸'} {title}", painter.palette.muted)]
        return [head, *(painter.text(inside, painter.palette.muted) if self.unfolded else [])]

    def _edged(self, body: Sequence[Line], painter: Painter, selected: bool) -> list[Line]:
        palette = painter.palette
        style = palette.accent if selected else palette.question if self.role == "user" else palette.muted
        edge = Segment("▌ " if selected or self.role == "user" else "  ", style)
        return [[edge, *line] for line in body]


def turn_of(message: ShownMessage) -> Turn:
    """A stored message as it is shown."""
    ending = ending_text(message.finish_reason, message.figures.stopped) if message.role == "assistant" else ""
    return Turn(
        role=message.role,
        content=message.content,
        reasoning=message.reasoning,
        calls=message.calls,
        id=message.id,
        parent=message.parent,
        note=ending,
        figures=message.figures,
    )


def _lines_text(text: str) -> str:
    count = text.count("\n") + 1
    return f"{count:,} line{'s' * (count != 1)}"


def info(text: str) -> Turn:
    """Something about the chat that is said in its place, and not stored."""
    return Turn(role="info", content=clean(text))


def notice(error: LocalaiError, key: str) -> Turn:
    """An error that belongs to no answer."""
    return Turn(role="notice", content=error_text(error, key))


def error_text(error: LocalaiError, key: str) -> str:
    """The error, what to do about it, and the key that tries again."""
    hint = f"\n{clean(error.hint)}." if error.hint else ""
    return f"{clean(error.message)}.{hint}\n{key} tries again."


def ending_text(reason: str | None, stopped: str | None = None) -> str:
    """How an answer ended, in words; "" where it ended by itself. `stopped` is why the daemon ended it, if it did."""
    if stopped and reason in ("stop", "length"):
        return stopped
    return "incomplete" if reason is None else _ENDINGS.get(reason, reason)
