"""What a person said about themselves and might want to be remembered: a message enters, sentences leave.

Rules for English only; nothing is stored here, and no model is asked.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from textual.widgets import Static

from localai.sanitize import one_line

Mode = Literal["ask", "auto", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)
_MOST = 3
_LONGEST = 240
_ORDER = re.compile(r"^(?:please )?(?:remember|note|keep in mind|don't forget)(?: that)?[:,]? (?P<what>.{6,})$", re.I)
_ABOUT = re.compile(
    r"^(?:(?:by the way|also|and|well|so|for context|hi|hello|hey)[,:!]? )?"
    r"(?:my [\w' -]{2,40} (?:is|are|was|were|lives?|works?)\b"
    r"|i(?:'m| am) (?:an?|the|from|allergic|vegetarian|vegan|married|born|left-handed|called|named|\d+ years)\b"
    r"|i (?:live|work|study|prefer|like|love|hate|dislike|own|speak|was born|grew up|always|never|usually)\b"
    r"|we (?:live|work|have|own|use)\b"
    r"|call me\b)",
    re.I,
)
_PASSING = re.compile(
    r"\b(?:right now|at the moment|today|currently|just now|the question|this (?:code|file|error))\b", re.I
)


def proposed(text: str) -> tuple[str, ...]:
    """Sentences of `text` that state something lasting about who wrote it, or that ask to be remembered."""
    prose = re.sub(r"```.*?(?:```|\Z)", " ", text, flags=re.DOTALL)
    found: dict[str, None] = {}
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", prose):
        line = one_line(sentence)
        if not 8 <= len(line) <= _LONGEST or line.endswith("?"):
            continue
        order = _ORDER.match(line)
        if order:
            found[order["what"][0].upper() + order["what"][1:]] = None
        elif _ABOUT.match(line) and not _PASSING.search(line):
            found[line] = None
    return tuple(found)[:_MOST]


class Proposals(Static):
    """One line that asks about one sentence after the other; hidden while there is none."""

    DEFAULT_CSS = """
    Proposals { height: 1; padding: 0 1; color: $accent; display: none; text-wrap: nowrap; text-overflow: ellipsis; }
    Proposals.-some { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.waiting: tuple[str, ...] = ()
        self._asked: set[str] = set()
        self._how = ""

    def offer(self, sentences: tuple[str, ...], keep: str, drop: str) -> None:
        """Each is asked about once; `keep` and `drop` are the keys that answer."""
        self._how = f"{keep} yes, {drop} no"
        fresh = tuple(each for each in sentences if each not in self._asked)
        self._asked.update(fresh)
        self._show((*self.waiting, *fresh)[-_MOST:])

    def take(self) -> str | None:
        """The sentence that is asked about, which is not asked about any more."""
        first, rest = (self.waiting[0], self.waiting[1:]) if self.waiting else (None, ())
        self._show(rest)
        return first

    def _show(self, waiting: tuple[str, ...]) -> None:
        self.waiting = waiting
        if waiting:
            self.update(f"Remember? {self._how}: {waiting[0]}", layout=False)
        self.set_class(bool(waiting), "-some")
