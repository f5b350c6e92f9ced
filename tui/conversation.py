"""One conversation that lives in the daemon: loaded, its branches shown, named; and the turns that show it.

The base of the chat's screens. It keeps nothing that a restart would miss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import quote

from textual.widgets import Static

from localai import __version__
from localai.client import Client
from localai.errors import LocalaiError
from tui.fetching import FetchingScreen
from tui.gauges import Gauges, today_text
from tui.reply import Reply
from tui.transcript import Transcript
from tui.tree import Tree, tree_of
from tui.turns import Turn, notice, turn_of
from tui.wire import Chat, Figures, ToolAsked, chat_of, version_text

ROOT = "/localai/conversations"


@dataclass(frozen=True, slots=True)
class Earlier:
    """What was shown before a change: its last message, and what had been typed."""

    head: str | None
    typed: str


class ConversationScreen(FetchingScreen[None]):
    """`conversation` is None until the first message of a new one has been sent."""

    def __init__(self, client: Client, conversation: str | None, model: str | None) -> None:
        super().__init__()
        self.client = client
        self.conversation = conversation
        self.chat_title = ""
        self.system = ""
        self.model = model
        self.options: dict[str, Any] = {}
        self.branching = Tree()
        self.leaf: str | None = None
        self.loaded = True
        # Answers that were asked for: what was fetched before the last of them is out of date.
        self.asked = 0
        self.reply: Reply | None = None
        self.figures = Figures()
        self.earlier: list[Earlier] = []
        self.typed_at = self._drawn_at = 0.0
        # Kept by name: a query would have to be made before each use.
        self.heading = Static(id="title", markup=False)
        self.transcript = Transcript()
        self.gauges = Gauges()
        self._question: Turn | None = None
        self._answer: Turn | None = None
        self._reason: str | None = None
        self._repeat: Callable[[], object] | None = None

    # Hooks of the screen that has a prompt.

    def put_back(self, text: str) -> None:
        """What could not be sent returns to where it was typed."""

    def send_again(self) -> None:
        """Send what was put back."""

    def shown(self, chat: Chat) -> None:
        """A conversation has been loaded."""

    def tool_asked(self, asked: ToolAsked | None) -> None:
        """A tool wants to run; None: not any more."""

    def key_of(self, name: str) -> str:
        """The key of a binding, as people write it."""
        return name

    def busy(self) -> bool:
        """True, and said, while something is being written."""
        return False

    @property
    def repeatable(self) -> bool:
        """True where there is something to try again: what failed, or a question to answer anew."""
        return self._repeat is not None or any(turn.role == "user" and turn.id for turn in self.transcript.turns)

    # Which conversation.

    def begin_with(self, conversation: str | None) -> None:
        """Show `conversation`, or an empty one that the daemon will hear of with its first message."""
        self.conversation, self.leaf, self._repeat, self.system = conversation, None, None, ""
        self.loaded = conversation is None
        self.branching, self.earlier = Tree(), []
        self._set_figures(Figures(model=self.model or "default"))
        self.set_title("")
        self.transcript.show(())
        if conversation is None:
            self.fetch(lambda: str(self.client.get("/health")["version"]), self._greeted)
        else:
            self.load(conversation)

    def _greeted(self, version: str) -> None:
        self._clear("notice")
        self.compare(version)

    def compare(self, version: str) -> None:
        """Say so where the daemon is not of this chat's version."""
        other = version_text(version, __version__)
        if other:
            self.notify(other, severity="warning", timeout=30, markup=False)

    def load(self, conversation: str) -> None:
        def both() -> tuple[Chat, Tree]:
            path = f"{ROOT}/{quote(conversation)}"
            return chat_of(self.client.get(path)), tree_of(self.client.get(f"{path}/tree"))

        asked = self.asked
        self.fetch(both, lambda found: self._loaded(*found) if asked == self.asked else None)

    def show_branch(self, head: str | None, *, typed: str = "", undoable: bool = True) -> None:
        """Show the branch that ends in `head`, None for the empty one."""
        conversation = self.conversation
        if conversation is None or self.busy():
            return
        before, self.loaded = Earlier(self.leaf, typed), False

        def changed(_: object) -> None:
            if undoable:
                self.earlier.append(before)
            self.load(conversation)

        path = f"{ROOT}/{quote(conversation)}"
        self.fetch(lambda: self.client.patch(path, {"head": head or ""}), changed)

    def set_title(self, title: str) -> None:
        self.chat_title = title
        self.heading.update(f"localai · {title or 'New conversation'}")

    def _loaded(self, chat: Chat, tree: Tree) -> None:
        if chat.id != self.conversation or self.reply is not None:
            return
        self.branching, self.system, self.loaded = tree, chat.system, True
        self.leaf = chat.messages[-1].id if chat.messages else None
        self.set_title(chat.title)
        turns = [turn_of(message) for message in chat.messages]
        for turn in turns:
            turn.siblings = tree.place(turn.id or "")
        self.transcript.show(turns)
        known = next((turn.figures for turn in reversed(turns) if turn.role == "assistant"), Figures())
        model = Figures(model=self.model or chat.model or "default")
        self._set_figures(model.updated(known).in_context(chat.room))
        self.shown(chat)
        self.refresh_bindings()
        self.refresh_today()

    def refresh_today(self) -> None:
        """Ask what today's answers took. Not said where it fails: the next answer asks again."""

        def ask() -> str:
            try:
                rows = self.client.get("/localai/energy?by=day&days=2")["rows"]
            except LocalaiError:
                return ""
            return today_text(rows, date.today().isoformat())

        self.fetch(ask, self.gauges.set_today)

    # Small things.

    async def fetch_failed(self, error: LocalaiError, again: Callable[[], object]) -> None:
        self._repeat = again
        self._fail(error)
        self.refresh_bindings()

    def _fail(self, error: LocalaiError) -> None:
        self._clear("notice")
        self.transcript.add(notice(error, self.key_of("again")))
        self.transcript.follow()

    def _clear(self, *roles: str) -> None:
        self.transcript.take_away(*(turn for turn in self.transcript.turns if turn.role in roles))

    def _set_figures(self, figures: Figures) -> None:
        self.figures = figures
        self.gauges.set_figures(figures)
