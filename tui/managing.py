"""What is done to whole conversations: made short, opened, forked, named, pinned, told how to behave, exported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from localai.errors import LocalaiError
from localai.sanitize import one_line
from tui.chooser import Chooser
from tui.compacting import Compacted, Compacting
from tui.conversation import ROOT
from tui.files import chats_of, kind_of, written
from tui.options import option_of, options_text
from tui.writing import WritingScreen


class ManagingScreen(WritingScreen):
    """`compacting` is the summary that is being written, if one is."""

    compacting: Compacting | None = None

    @property
    def working(self) -> bool:
        return self.compacting is not None or super().working

    def busy(self) -> bool:
        if self.compacting is not None:
            self.notify("A summary is being written. Esc stops it.")
        return self.compacting is not None or super().busy()

    def stop(self) -> None:
        super().stop()
        if self.compacting is not None:
            self.compacting.stop()

    async def leave(self) -> None:
        self.stop()
        await super().leave()

    def action_compact(self) -> None:
        if self.conversation is None or self.busy():
            return
        figures = self.figures
        model = self.model or figures.model
        self.compacting = Compacting(self.client, self.conversation, model, figures.n_ctx)
        self.refresh_bindings()
        self.fetch(partial(self.compacting.run, self._tell), self._compacted, self.action_compact)

    def _tell(self, text: str) -> None:
        self.app.call_from_thread(self.gauges.set_activity, text)

    def _compacted(self, made: Compacted | None) -> None:
        self._end_compacting()
        if made is None:
            self.inform("The summary was stopped; nothing has changed.")
        else:
            self.told = f"{made.text} The whole conversation is kept beside it: {self.key_of('open')}."
            self.begin_with(made.conversation)

    def _end_compacting(self) -> None:
        self.compacting = None
        self.gauges.set_activity("")
        self.refresh_bindings()

    async def fetch_failed(self, error: LocalaiError, again: Callable[[], object]) -> None:
        if again == self.action_compact:
            self._end_compacting()
        elif not self.working:
            # That of a pull that failed.
            self.gauges.set_activity("")
        await super().fetch_failed(error, again)

    async def action_new(self) -> None:
        await self.leave()
        self.options.clear()
        self.begin_with(None)

    def action_open(self) -> None:
        self.app.push_screen(Chooser(self.client), self._chosen)

    async def _chosen(self, conversation: str | None) -> None:
        if conversation is not None:
            await self.leave()
            self.options.clear()
            # It has its own.
            self.model = None
            self.begin_with(conversation)
        elif self.conversation is not None and self.reply is None:
            # It may have been renamed, or deleted.
            self.load(self.conversation)

    def action_fork(self) -> None:
        """Up to the chosen message, else to the last."""
        turn = self.transcript.selected
        message = (turn.id if turn else None) or self.leaf
        if self.conversation is None or message is None or self.busy():
            return
        path = f"{ROOT}/{quote(self.conversation)}/fork"
        self.fetch(lambda: self.client.post(path, {"message": message}), self._forked)

    def _forked(self, body: dict[str, Any]) -> None:
        self.begin_with(body["id"])
        self.notify("This is a new conversation now.")

    def action_rename(self, title: str) -> None:
        self._change({"title": title}, lambda body: self.set_title(one_line(body["title"])))

    def action_pin(self) -> None:
        if self.conversation is not None:
            path = f"{ROOT}/{quote(self.conversation)}"

            def turn() -> bool:
                pinned = not self.client.get(path)["pinned"]
                self.client.patch(path, {"pinned": pinned})
                return pinned

            self.fetch(turn, lambda pinned: self.notify("Pinned." if pinned else "Not pinned any more."))

    def action_system(self, text: str) -> None:
        if not text:
            known = one_line(self.system)
            self.inform(f"The system prompt: {known}" if known else "There is no system prompt. /system TEXT sets one.")
        elif self.conversation is None:
            body = {"system": text, **({"model": self.model} if self.model else {})}
            self.fetch(lambda: self.client.post(ROOT, body), self._begun)
        else:
            self._change({"system": text}, self._begun)

    def _begun(self, body: dict[str, Any]) -> None:
        self.conversation, self.system = body["id"], body["system"]
        self.notify("The next answers follow it.")

    def action_id(self) -> None:
        if self.conversation is None:
            self.inform("This conversation has no id yet: it begins with the first message.")
        else:
            self.inform(f"`localai chat -c {self.conversation}` opens this conversation again.")

    def action_set(self, text: str) -> None:
        if not text:
            self.inform(options_text(self.options))
            return

        def took(option: tuple[str, object | None]) -> None:
            name, value = option
            self.options.pop(name, None)
            if value is not None:
                self.options[name] = value
            self.notify(f"{name}: {'as usual' if value is None else value}", markup=False)

        self.fetch(lambda: option_of(text), took)

    def action_export(self, kind: str) -> None:
        conversation = self.conversation
        if conversation is None:
            self.notify("There is nothing to export yet.")
            return

        def export() -> Path:
            body = self.client.get(f"{ROOT}/{quote(conversation)}/export?kind={kind_of(kind)}")
            return written(self.folder / Path(body["name"]).name, body["content"])

        self.fetch(export, self.say_written)

    def action_import(self, name: str) -> None:
        def bring_in() -> list[dict[str, Any]]:
            content = chats_of(self.folder / Path(name).expanduser())
            found: list[dict[str, Any]] = self.client.post(f"{ROOT}/import", {"content": content}, timeout=300)[
                "conversations"
            ]
            return found

        def brought(chats: list[dict[str, Any]]) -> None:
            self.notify(f"{len(chats)} conversation{'s were' if len(chats) != 1 else ' was'} imported.")
            self.model = None
            self.begin_with(chats[-1]["id"])

        self.fetch(bring_in, brought)

    def _change(self, body: dict[str, Any], then: Any) -> None:
        if self.conversation is None:
            self.notify("There is no conversation yet: it begins with the first message.")
            return
        path = f"{ROOT}/{quote(self.conversation)}"
        self.fetch(lambda: self.client.patch(path, body), then)
