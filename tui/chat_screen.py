"""The chat's main screen: what each key and command does about whole conversations, models and figures."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from textual.binding import Binding, BindingType

from localai.client import Client
from tui.bench_screen import BenchScreen
from tui.branches import Branches
from tui.conversation import ROOT
from tui.dashboard import KEPT, Dashboard, Reading
from tui.drafts import Drafts
from tui.fetching import PULL, pull_text
from tui.help import Help, keys_text
from tui.managing import ManagingScreen
from tui.memory_panel import MemoryPanel
from tui.models import Choice, Models, check_model, listed
from tui.prompt import Prompt
from tui.remembering import MODES, Mode, proposed
from tui.settings import Settings
from tui.tools import Tools
from tui.tree import Tree, tree_of
from tui.turns import Turn
from tui.welcome import welcome
from tui.wire import Figures, ToolAsked


class ChatScreen(ManagingScreen):
    # Alt+B, Alt+D and Alt+F edit words in the prompt, as in a shell.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help", id="help"),
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("ctrl+r", "again", "Again", id="again"),
        Binding("ctrl+n", "new", "New", id="new"),
        Binding("f2,ctrl+o", "open", "Open", id="open"),
        Binding("f3", "branches", "Branches", id="branches"),
        Binding("f4", "models", "Models", id="models"),
        Binding("f6", "memory", "Memory of the answer", show=False, id="memory", priority=True),
        Binding("f5", "dashboard", "Engines and power", show=False, id="dashboard", priority=True),
        Binding("f7", "bench", "Last benchmark", show=False, id="bench", priority=True),
        Binding("f8", "app.theme", "Next theme", show=False, id="theme"),
        Binding("ctrl+t", "thoughts", "Show or hide thinking and tool calls", show=False, id="thoughts"),
        Binding("alt+up", "select(-1)", "Choose the message before", show=False, id="select_up"),
        Binding("alt+down", "select(1)", "Choose the message after", show=False, id="select_down"),
        Binding("alt+left", "sibling(-1)", "The branch before", show=False, id="branch_before"),
        Binding("alt+right", "sibling(1)", "The branch after", show=False, id="branch_after"),
        Binding("alt+e", "edit", "Edit the chosen question and send it again", show=False, id="edit"),
        Binding("alt+o", "fork", "Go on from here in a new conversation", show=False, id="fork"),
        Binding("alt+z", "undo", "Back to what was shown before", show=False, id="undo"),
        Binding("alt+k", "next_code", "Choose the next code", show=False, id="next_code"),
        Binding("alt+c", "copy", "Copy the chosen code, else the answer", show=False, id="copy"),
        Binding("alt+s", "save_code('')", "Save the chosen code", show=False, id="save_code"),
        Binding("ctrl+g", "editor", "Write in $EDITOR", show=False, id="editor"),
        Binding("f9", "tools", "Tools of this chat", show=False, id="tools"),
        Binding("alt+y", "answer('once')", "Yes: run the tool, or remember it", show=False, id="yes"),
        Binding("alt+a", "answer('always')", "Run this tool always", show=False, id="always"),
        Binding("alt+n", "answer('no')", "No: do not run it, do not remember it", show=False, id="no"),
        Binding("alt+x", "detach", "Take the last attachment away", show=False, id="detach"),
        Binding("alt+backspace", "erase", "Delete a word, else an attachment", show=False, id="erase", priority=True),
    ]

    def __init__(
        self,
        client: Client,
        conversation: str | None,
        model: str | None,
        folder: Path,
        settings: Settings,
        drafts: Path | None = None,
    ) -> None:
        super().__init__(client, conversation, model, folder)
        self.memories: Mode = settings.memories
        self.keys = settings.keys
        self.drafts = Drafts(drafts)
        self.told = settings.mistakes
        self.readings: deque[Reading] = deque(maxlen=KEPT)

    def on_mount(self) -> None:
        self.begin_with(self.conversation)
        if self.conversation is None:
            told, self.told = self.told, ""
            if told:
                self.inform(told)
            self.restore()
            self.refresh_today()
            self.fetch(lambda: welcome(self.client, self.memories), self._welcome)
        else:
            self.fetch(lambda: str(self.client.get("/health")["version"]), self.compare)

    def _welcome(self, text: str) -> None:
        """What the first run tells; what is being typed meanwhile is not touched."""
        if text and all(turn.role == "info" for turn in self.transcript.turns):
            self.transcript.show([Turn(role="assistant", content=text), *self.transcript.turns])

    # Other screens.

    def action_help(self) -> None:
        every = (*Prompt.BINDINGS, *ChatScreen.BINDINGS, *self.app.BINDINGS)
        bindings = [b for b in every if isinstance(b, Binding)]
        self.app.push_screen(Help([replace(b, key=self.keys.get(b.id or "", b.key)) for b in bindings]))

    def action_dashboard(self) -> None:
        self.app.push_screen(Dashboard(self.client, self.readings))

    def action_bench(self) -> None:
        self.app.push_screen(BenchScreen(self.client))

    def action_memory(self) -> None:
        turn = self.transcript.selected or self._last("assistant")
        used = (turn.figures.memories if turn else None) or ()
        asked = next((t.content for t in self.transcript.turns if turn and t.id == turn.parent), "")
        self.app.push_screen(MemoryPanel(self.client, used, asked))

    def action_models(self) -> None:
        self.app.push_screen(Models(self.client), self._take_model)

    def _take_model(self, choice: Choice | None) -> None:
        if choice is not None and choice.pull:
            self.action_pull(choice.model)
        elif choice is not None:
            self._use(choice.model)
            self.options.pop("backend", None)
            if choice.backend:
                self.options["backend"] = choice.backend

    def action_use(self, model: str) -> None:
        """From now on in this chat; a name that the daemon does not know changes nothing."""
        if listed(model):
            self.fetch(lambda: check_model(self.client, model), lambda _: self._use(model))
        else:
            self._use(model)

    def _use(self, model: str) -> None:
        """Stored with the conversation where there is one."""
        self.model = model
        self._set_figures(Figures(model=model))
        if self.conversation is not None:
            self._change({"model": model}, lambda _: None)

    def action_branches(self) -> None:
        conversation = self.conversation
        if conversation is None or self.busy():
            return
        path = f"{ROOT}/{quote(conversation)}"

        def cut(message: str) -> Tree:
            self.client.delete(f"{path}/messages/{quote(message)}")
            return tree_of(self.client.get(f"{path}/tree"))

        def chosen(head: str | None) -> None:
            if head is not None:
                self.show_branch(head)
            else:
                self.load(conversation)

        self.fetch(lambda: tree_of(self.client.get(f"{path}/tree")), lambda tree: self._branches(tree, cut, chosen))

    def _branches(self, tree: Tree, cut: Any, chosen: Any) -> None:
        self.app.push_screen(Branches(tree, cut), chosen)

    # What is remembered.

    def action_remember(self, text: str) -> None:
        self._remember(text, "Remembered.")

    def action_memories(self, mode: str) -> None:
        if not mode:
            self.inform(f"What you say about yourself: {self.memories}. /memories {'|'.join(MODES)} changes it.")
        elif mode in MODES:
            self.memories = mode
            self.notify(f"What you say about yourself: {mode}")
        else:
            self.notify(f"Choose one of {', '.join(MODES)}.")

    def key_of(self, name: str) -> str:
        usual = {each.id: each.key for each in ChatScreen.BINDINGS if isinstance(each, Binding)}
        return keys_text(self.keys.get(name, usual[name]))

    def said(self, text: str) -> None:
        found = proposed(text) if self.memories != "off" else ()
        if self.memories == "ask":
            self.proposals.offer(found, self.key_of("yes"), self.key_of("no"))
        else:
            for each in found:
                self._remember(each, f"Remembered: {each}")

    def action_answer(self, decision: str) -> None:
        """About the tool that wants to run; where none does, about what might be remembered."""
        asked = self.question.asked
        if asked is not None:
            self.question.ask(None)
            path = f"/localai/tools/calls/{quote(asked.call)}"
            self.fetch(lambda: self.client.post(path, {"decision": decision}), lambda _: None)
        elif decision != "always":
            text = self.proposals.take()
            if text is not None and decision == "once":
                self.action_remember(text)

    # Tools.

    def action_tools(self) -> None:
        self.app.push_screen(Tools(self.client, tuple(self.options.get("tools", ()))), self._take_tools)

    def _take_tools(self, used: tuple[str, ...] | None) -> None:
        self.options.pop("tools", None)
        if used:
            self.options["tools"] = list(used)

    def tool_asked(self, asked: ToolAsked | None) -> None:
        keys = [self.key_of(name) for name in ("yes", "always", "no")]
        self.question.ask(asked, "{} yes, {} always, {} no".format(*keys))

    def _remember(self, text: str, said: str) -> None:
        self.fetch(
            lambda: self.client.post("/localai/memory", {"text": text}), lambda _: self.notify(said, markup=False)
        )

    def action_pull(self, model: str) -> None:
        """Progress shows in the gauges; leaving the chat stops it, and what has arrived is kept."""

        def pull() -> str:
            with self.client.stream(PULL, {"model": model}) as events:
                for event in events:
                    if event.data is not None:
                        self.app.call_from_thread(self.gauges.set_activity, pull_text(event.data))
            return model

        def pulled(name: str) -> None:
            self.gauges.set_activity("")
            self.action_use(name)
            self.notify(f"{name} is here.", markup=False)

        self.fetch(pull, pulled)
