"""A conversation with a prompt under it: writing, attaching, editing, choosing, copying. The chat screen's base."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from textual.app import ComposeResult, SuspendNotSupported
from textual.timer import Timer
from textual.widgets import Footer, Static

from localai.attached import parted, with_files
from localai.client import Client
from localai.errors import BadRequest, LocalaiError
from localai.sanitize import clean, one_line
from tui import attachments, commands
from tui.answering import AnsweringScreen
from tui.attachments import Attachment
from tui.completion import Completion
from tui.drafts import Drafts
from tui.editor import edited
from tui.fetching import Fetched
from tui.files import ending_of, written
from tui.prompt import Prompt
from tui.remembering import Proposals
from tui.tools import Question
from tui.transcript import Transcript
from tui.turns import Turn, info
from tui.wire import Chat

_KEEP_S = 0.3
"""Seconds of typing that a killed terminal may cost."""


class WritingScreen(AnsweringScreen):
    AUTO_FOCUS = "Prompt"
    CSS = """
    #title { height: 1; padding: 0 1; background: $panel; text-wrap: nowrap; text-overflow: ellipsis; }
    #attached { height: auto; max-height: 3; padding: 0 1; color: $text-muted; display: none; }
    #attached.-some { display: block; }
    .-tiny #title, .-tiny Gauges, .-tiny Footer { display: none; }
    .-tiny Prompt { min-height: 1; max-height: 3; border: none; &:focus { border: none; } }
    """

    def __init__(self, client: Client, conversation: str | None, model: str | None, folder: Path) -> None:
        super().__init__(client, conversation, model)
        self.folder = folder
        self.attachments: tuple[Attachment, ...] = ()
        self.editing: Turn | None = None
        self._held: str | None = None
        self._commanded = ""
        self._keeping: Timer | None = None
        self.completion = Completion(folder)
        self.prompt = Prompt(self.completion)
        self.drafts = Drafts(None)
        self.told = ""
        self.attached = Static(id="attached", markup=False)
        self.proposals = Proposals()
        self.question = Question()

    def compose(self) -> ComposeResult:
        yield self.heading
        yield self.transcript
        yield self.gauges
        yield self.question
        yield self.proposals
        yield self.attached
        yield self.completion
        yield self.prompt
        yield Footer(show_command_palette=False)

    def on_resize(self) -> None:
        """In a very small terminal only the talk and the prompt are left."""
        self.set_class(self.app.size.height < 12, "-tiny")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "stop":
            return self.working or self.editing is not None or self.transcript.selected is not None
        if action == "again":
            return not self.working and self.repeatable
        return True

    # Hooks of the conversation.

    def put_back(self, text: str) -> None:
        files, typed = parted(text)
        if files:
            self._attach_all((*(attachments.attached(name, text) for name, text in files), *self.attachments))
        self.prompt.put_back(typed)

    def send_again(self) -> None:
        if self.prompt.text.strip():
            self.prompt.action_submit()
        else:
            self.regenerate()

    def shown(self, chat: Chat) -> None:
        self.prompt.earlier = [parted(m.content)[1] for m in chat.messages if m.role == "user"][-200:]
        if self.prompt.earlier:
            self.prompt.remember(self.prompt.earlier.pop())
        told, self.told = self.told, ""
        if told:
            self.inform(told)
        self.restore()
        held, self._held = self._held, None
        if held is not None:
            self.on_prompt_submitted(Prompt.Submitted(held))

    async def fetch_failed(self, error: LocalaiError, again: Callable[[], object]) -> None:
        held, self._held = self._held, None
        commanded, self._commanded = self._commanded, ""
        if held is not None:
            self.prompt.put_back(held)
        elif commanded and not self.prompt.text:
            # To be corrected: a command that was refused is still what the person wants.
            self.prompt.load(commanded)
        if commanded and isinstance(error, BadRequest):
            # The same again would be refused again.
            self.inform(f"{clean(error.message)}. {clean(error.hint)}.")
            return
        await super().fetch_failed(error, again)

    def _on_fetched(self, _: Fetched) -> None:
        """Beside what the base does with it: Textual calls both."""
        self._commanded = ""

    # Sending.

    def on_text_area_changed(self) -> None:
        self.typed_at = time.monotonic()
        self._keep_soon()

    def _keep_soon(self) -> None:
        if self._keeping is None:
            self._keeping = self.set_timer(_KEEP_S, self._keep)

    def _keep(self) -> None:
        self._keeping = None
        paths = [each.path for each in self.attachments if each.path is not None]
        self.drafts.keep(self.conversation, self.prompt.text, paths)

    def on_unmount(self) -> None:
        """What the timer would still have kept."""
        if self._keeping is not None:
            self._keep()

    def restore(self) -> None:
        """Bring back what was typed and attached here before, where nothing has been since."""
        if not self.prompt.text:
            self.prompt.load(self.drafts.of(self.conversation))
        paths = self.drafts.files_of(self.conversation)
        if paths and not self.attachments:
            self.fetch(lambda: attachments.read_again(paths), self._attach_again)

    def _attach_again(self, found: tuple[tuple[Attachment, ...], str]) -> None:
        files, missing = found
        self._attach_all((*files, *self.attachments))
        if missing:
            self.inform(missing)

    def inform(self, text: str) -> None:
        """Say something among the messages, until the next question."""
        self.transcript.add(info(text))
        self.transcript.follow()

    def begin_with(self, conversation: str | None) -> None:
        """What is being typed goes along."""
        if self.prompt.text or self.attachments:
            self.drafts.keep(self.conversation, "")
            self.on_text_area_changed()
        super().begin_with(conversation)

    def on_prompt_submitted(self, event: Prompt.Submitted) -> None:
        # Now, because a new conversation has an id in a moment.
        self.drafts.keep(self.conversation, "")
        if event.text.lstrip().startswith("/") and commands.parsed(event.text):
            self.run_command(event.text)
        elif event.text.lstrip().startswith("/") and event.text.split()[0].count("/") == 1:
            self.prompt.put_back(event.text)
            self.notify(f"There is no command {one_line(event.text.split()[0])}. /help lists all.", markup=False)
        elif self.busy():
            self.prompt.put_back(event.text)
        elif not self.loaded and self.conversation is not None:
            # What it is an answer to is not known yet.
            self._held = "\n".join(filter(None, (self._held, event.text)))
            self.load(self.conversation)
        else:
            parent = self.editing.parent if self.editing else self.leaf
            text = with_files(event.text, ((a.name, a.text) for a in self.attachments))
            self._attach_all(())
            self.editing = None
            self.transcript.take_away(*(turn for turn in self.transcript.turns if turn.id is None))
            self.ask(text, parent)
            self.said(event.text)

    def said(self, text: str) -> None:
        """What was typed is on its way; the attachments are not part of it."""

    def run_command(self, text: str) -> None:
        """Act on a line that `commands.parsed` knows."""
        found = commands.parsed(text)
        assert found is not None
        command, argument = found
        self._commanded = text
        if not argument and not command.complete:
            self.prompt.put_back(text)
            self.notify(f"/{command.name} {command.argument}: {command.help}", markup=False)
            return
        act = getattr(self, f"action_{command.action}", None) or getattr(self.app, f"action_{command.action}")
        self.call_later(act, *((argument,) if command.argument else ()))

    def on_prompt_pasted(self, event: Prompt.Pasted) -> None:
        number = 1 + sum(a.name.startswith("pasted") for a in self.attachments)
        self._attach_one(attachments.attached(f"pasted {number}", event.text))

    def on_prompt_attached(self, event: Prompt.Attached) -> None:
        self.action_attach(event.path)

    def action_attach(self, path: str) -> None:
        def read() -> Attachment:
            found = attachments.read(self.folder / Path(path).expanduser())
            return replace(found, name=path, path=(self.folder / Path(path).expanduser()).resolve())

        self.fetch(read, self._attach_one)

    def action_detach(self) -> None:
        self._attach_all(self.attachments[:-1])

    def action_erase(self) -> None:
        if self.prompt.text:
            self.prompt.action_delete_word_left()
        else:
            self.action_detach()

    def _attach_one(self, added: Attachment) -> None:
        self._attach_all((*self.attachments, added))

        def count() -> int:
            try:
                body = {"content": added.text, **({"model": self.model} if self.model else {})}
                return len(self.client.post("/tokenize", body, timeout=120)["tokens"])
            except LocalaiError:
                return -1

        def counted(tokens: int) -> None:
            exact = replace(added, tokens=tokens, counted=True)
            if tokens >= 0:
                self._attach_all(tuple(exact if a is added else a for a in self.attachments))

        self.fetch(count, counted)

    def _attach_all(self, found: tuple[Attachment, ...]) -> None:
        self.attachments = found
        self.attached.update(" + ".join(one_line(a.label()) for a in found))
        self.attached.set_class(bool(found), "-some")
        self._keep_soon()

    def action_editor(self) -> None:
        try:
            with self.app.suspend():
                text = edited(self.prompt.text)
        except SuspendNotSupported:
            self.notify("This terminal cannot be handed to an editor.")
            return
        self.refresh()
        self.prompt.load(text)

    # The messages.

    def action_stop(self) -> None:
        if self.working:
            self.stop()
        elif self.editing is not None:
            self.editing = None
            self._attach_all(())
            self.prompt.clear()
        if self.transcript.selected is not None:
            self.transcript.select(None)

    def action_again(self) -> None:
        self.retry()

    def action_scroll_transcript(self, pages: int) -> None:
        self.transcript.page(pages)

    def action_thoughts(self) -> None:
        turn = self.transcript.selected or self._last("assistant")
        if turn is not None:
            self.on_transcript_toggled(Transcript.Toggled(turn))

    def on_transcript_toggled(self, event: Transcript.Toggled) -> None:
        event.turn.unfolded = not event.turn.unfolded
        self.transcript.changed(event.turn)

    def action_select(self, step: int) -> None:
        turns = self.transcript.turns
        if not turns:
            return
        at = turns.index(self.transcript.selected) if self.transcript.selected in turns else len(turns)
        to = at + step
        self.transcript.select(turns[max(0, to)] if to < len(turns) else None)
        self.refresh_bindings()

    def action_sibling(self, step: int) -> None:
        turn = self.transcript.selected or self._last("assistant")
        head = self.branching.sibling(turn.id or "", step) if turn else None
        if head is None:
            self.notify("There is no other branch there.")
        else:
            self.show_branch(head)

    def action_edit(self) -> None:
        turn = self.transcript.selected
        turn = turn if turn is not None and turn.role == "user" else self._last("user")
        if turn is None or self.busy():
            return
        self.editing = turn
        self.transcript.select(turn)
        files, typed = turn.parts
        self._attach_all(tuple(attachments.attached(name, text) for name, text in files))
        self.prompt.load(typed)
        self.refresh_bindings()

    def action_undo(self) -> None:
        if not self.earlier:
            self.notify("There is nothing to take back.")
        elif not self.busy():
            before = self.earlier.pop()
            self.show_branch(before.head, undoable=False)
            if before.typed:
                self.prompt.put_back(before.typed)

    def action_next_code(self) -> None:
        turn, marked = self._code_turn()
        count = len(turn.blocks_of().fences) if turn else 0
        if not count:
            self.notify("There is no code in this answer.")
        else:
            self.transcript.mark(turn, 0 if marked is None else (marked + 1) % count)

    def action_copy(self) -> None:
        turn, marked = self._code_turn()
        if turn is None:
            self.notify("There is no answer to copy.")
            return
        text = turn.content if marked is None else turn.blocks_of().fences[marked].code or ""
        self.app.copy_to_clipboard(text)
        self.notify("Copied the answer." if marked is None else "Copied the code.")

    def action_save_code(self, name: str) -> None:
        turn, marked = self._code_turn()
        fences = turn.blocks_of().fences if turn else ()
        if not fences:
            self.notify("There is no code in this answer.")
            return
        fence = fences[marked or 0]
        target = self.folder / (name or f"code{ending_of(fence.language)}")
        self.fetch(lambda: written(target, (fence.code or "") + "\n"), self.say_written)

    def say_written(self, path: Path) -> None:
        self.notify(f"Written: {path}", markup=False)

    def _code_turn(self) -> tuple[Turn | None, int | None]:
        chosen = self.transcript.selected
        if chosen is not None and chosen.role == "assistant":
            turn: Turn | None = chosen
        else:
            turn = self.transcript.marked[0] if self.transcript.marked else self._last("assistant")
        marked = self.transcript.marked
        return turn, marked[1] if marked and marked[0] is turn else None

    def _last(self, role: str) -> Turn | None:
        return next((turn for turn in reversed(self.transcript.turns) if turn.role == role), None)
