"""What was recalled for an answer, with source and trust: each to be confirmed, corrected, pinned or forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from localai.client import Client
from localai.errors import NotFound
from localai.sanitize import one_line
from tui.listing import ListScreen
from tui.wire import UsedMemory

_ROOT = "/localai/memory"


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory as it is now; `text` is "" where it was forgotten since; `pinned` ones go along with all questions."""

    id: str
    text: str
    source: str
    trust: float
    state: str
    pinned: bool = False


class MemoryPanel(ListScreen[None]):
    HEADING = "Recalled for this answer: source, trust, text; * is pinned, and goes along with every question"
    DEFAULT_CSS = """
    MemoryPanel Input, MemoryPanel Input:focus { border: none; height: 1; padding: 0; background: $panel; }
    MemoryPanel Input { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "judge('confirmed')", "Confirm"),
        Binding("r", "judge('refuted')", "Refute"),
        Binding("e", "correct", "Correct"),
        Binding("p", "pin", "Pin or unpin"),
        Binding("f", "forget", "Forget"),
    ]

    def __init__(self, client: Client, used: tuple[UsedMemory, ...], question: str) -> None:
        super().__init__()
        self._client = client
        self._used = used
        self._question = question
        self._known: dict[str, Recalled] = {}
        self._doomed: str | None = None
        self._input = Input(select_on_focus=False)

    def above(self) -> ComposeResult:
        yield self._input

    def on_mount(self) -> None:
        self._refresh()

    def action_back(self) -> None:
        if self._input.display:
            self._close_input()
        else:
            self.dismiss(None)

    def action_judge(self, verdict: str) -> None:
        chosen = self.chosen
        if chosen is not None:
            path = f"{_ROOT}/{quote(chosen)}/judge"
            self.fetch(lambda: self._client.post(path, {"verdict": verdict}), lambda _: self._refresh())

    def action_pin(self) -> None:
        """The ranking learns from it too: such questions want this memory."""
        chosen = self.chosen
        if chosen is None or not self._known[chosen].text:
            return
        pinned = not self._known[chosen].pinned
        learned = {"query": self._question, "kept": [chosen], "how": "pinned"}

        def pin() -> None:
            self._client.post(f"{_ROOT}/{quote(chosen)}/pin", {"pinned": pinned})
            if pinned and any(each.id == chosen for each in self._used) and self._question.strip():
                self._client.post(f"{_ROOT}/feedback", learned)

        self.fetch(pin, lambda _: self._pinned(pinned))

    def _pinned(self, pinned: bool) -> None:
        self.notify("Pinned: it goes along with every question." if pinned else "Not pinned any more.")
        self._refresh()

    def action_forget(self) -> None:
        """Asked for twice: it is erased from every file."""
        chosen = self.chosen
        if chosen is not None and chosen == self._doomed:
            forget = {"ids": [chosen]}
            self.fetch(lambda: self._client.post(f"{_ROOT}/forget", forget, timeout=120), lambda _: self._refresh())
        elif chosen is not None:
            self._doomed = chosen
            self.heading.update("F again forgets this memory for ever")

    def action_correct(self) -> None:
        chosen = self.chosen
        if chosen is not None and self._known[chosen].text:
            self._input.value = self._known[chosen].text
            self._input.action_end()
            self._input.display = True
            self._input.focus()
            self.heading.update("What is right; Enter keeps it and refutes the old text")

    def on_input_submitted(self) -> None:
        chosen, text = self.chosen, self._input.value.strip()
        self._close_input()
        if chosen is None or not text:
            return

        def correct() -> None:
            self._client.post(_ROOT, {"text": text})
            self._client.post(f"{_ROOT}/{quote(chosen)}/judge", {"verdict": "refuted"})

        self.fetch(correct, lambda _: self._refresh())

    def _close_input(self) -> None:
        self._input.display = False
        self.rows.focus()
        self.heading.update(self.HEADING)

    def _refresh(self) -> None:
        self.fetch(lambda: with_pinned(self._client, self._used), self._show)

    def _show(self, found: tuple[Recalled, ...]) -> None:
        self._doomed = None
        self._known = {each.id: each for each in found}
        self.fill(((each.id, recalled_text(each)) for each in found), empty="No memory was recalled for this answer")


def with_pinned(client: Client, used: tuple[UsedMemory, ...]) -> tuple[Recalled, ...]:
    """What was used, and what is pinned beside it. Blocks; raises LocalaiError."""
    pinned = {
        row["id"]: Recalled(row["id"], one_line(row["text"]), one_line(row["source"]), row["trust"], row["state"], True)
        for row in client.get(f"{_ROOT}/pins")["memories"]
    }
    known = [pinned.get(each.id) or recalled(client, each) for each in used]
    rest = pinned.keys() - {each.id for each in used}
    return (*known, *(memory for memory in pinned.values() if memory.id in rest))


def recalled(client: Client, used: UsedMemory) -> Recalled:
    """The memory as it is now. Blocks; raises LocalaiError, but not where it was forgotten."""
    try:
        body: dict[str, Any] = client.get(f"{_ROOT}/{quote(used.id)}")
    except NotFound:
        return Recalled(used.id, "", used.source, used.trust, "forgotten")
    return Recalled(
        used.id, one_line(body["text"]), one_line(body["source"]), float(body["trust"]), one_line(body["state"])
    )


def recalled_text(memory: Recalled) -> str:
    state = "" if memory.state == "kept" else f" ({memory.state})"
    return f"{'*' if memory.pinned else ' '} {memory.source}  trust {memory.trust:.2f}{state}  {memory.text}"
