"""What fits the word at the cursor: commands after a slash, files after an @. A list above the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual.fuzzy import Matcher
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from localai.sanitize import one_line
from tui.attachments import listed
from tui.commands import COMMANDS

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """The word that is being typed: `kind` is its first character, `start` its place in the line."""

    kind: str
    text: str
    start: int


def wanted_at(line: str, column: int, *, first: bool) -> Wanted | None:
    """What is to be completed before `column`; a slash counts at the beginning of the `first` line only."""
    before = line[:column]
    if first and before.startswith("/") and " " not in before:
        return Wanted("/", before[1:], 0)
    start = before.rfind("@")
    if start < 0 or (start > 0 and not before[start - 1].isspace()) or " " in before[start:]:
        return None
    return Wanted("@", before[start + 1 :], start)


class Completion(OptionList, can_focus=False):
    """Shown while something fits; the prompt moves through it."""

    DEFAULT_CSS = """
    Completion { height: auto; max-height: 8; display: none; border: none; background: $panel; margin: 0 1; }
    Completion.-open { display: block; }
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(markup=False)
        self._folder = folder
        self._files: tuple[str, ...] | None = None
        self.wanted: Wanted | None = None

    @property
    def open(self) -> bool:
        return self.has_class("-open")

    def offer(self, wanted: Wanted | None) -> None:
        """Show what fits, the best first; nothing where nothing does."""
        if wanted is None or self.wanted is None:
            # Looked at anew for each word: the chat stays open while files come and go.
            self._files = None
        self.wanted = wanted
        rows = [] if wanted is None else self._fitting(wanted)
        self.clear_options()
        self.add_options([Option(text, id=name) for name, text in rows])
        self.highlighted = 0 if rows else None
        self.set_class(bool(rows), "-open")

    def close(self) -> None:
        self.offer(None)

    def chosen(self) -> str | None:
        """The highlighted name."""
        if self.highlighted is None:
            return None
        return self.get_option_at_index(self.highlighted).id

    def _fitting(self, wanted: Wanted) -> Sequence[tuple[str, str]]:
        if wanted.kind == "/":
            found = [c for c in COMMANDS if c.name.startswith(wanted.text)]
            if [c.name for c in found] == [wanted.text]:
                return ()
            return [(c.name, f"/{f'{c.name} {c.argument}':18} {c.help}") for c in found]
        if self._files is None:
            self._files = listed(self._folder)
        if not wanted.text:
            return [(name, one_line(name)) for name in self._files[:SHOWN]]
        return [(name, one_line(name)) for name in ranked(wanted.text, self._files)[:SHOWN]]


def ranked(text: str, names: Sequence[str]) -> list[str]:
    """The names that `text` fits: those that begin with it, whole or after their folders, then by how well it fits."""
    matcher, low = Matcher(text), text.casefold()

    def begins(name: str) -> bool:
        whole = name.casefold()
        return whole.startswith(low) or whole.rstrip("/").rpartition("/")[2].startswith(low)

    scored = [(not begins(name), -score, name) for name in names if (score := matcher.match(name)) > 0]
    return [name for *_, name in sorted(scored, key=lambda row: row[:2])]
