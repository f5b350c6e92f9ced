"""The terminal chat as an application: its screen, its themes, its keys. It reaches the daemon through one client."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from localai.client import Client
from tui.chat_screen import ChatScreen
from tui.settings import Settings
from tui.themes import ORDER, THEMES

USUAL = Settings()


def run(
    client: Client,
    conversation: str | None = None,
    model: str | None = None,
    *,
    settings: Settings = USUAL,
) -> None:
    """Show the chat until the person leaves; `conversation` is the id of one to continue. Closes the client."""
    try:
        ChatApp(client, conversation, model, settings=settings).run()
    finally:
        client.close()


class ChatApp(App[None]):
    TITLE = "localai"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", priority=True, id="quit"),
        Binding("ctrl+p", "command_palette", "All commands", show=False, id="palette"),
    ]
    COMMAND_PALETTE_BINDING = "ctrl+p"

    def __init__(
        self,
        client: Client,
        conversation: str | None = None,
        model: str | None = None,
        *,
        settings: Settings = USUAL,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        for each in THEMES:
            self.register_theme(each)
        if settings.theme in self.available_themes:
            self.theme = settings.theme
        self.set_keymap(dict(settings.keys))
        self._client = client
        self.chat = ChatScreen(client, conversation, model, folder or Path.cwd(), settings)

    def get_default_screen(self) -> Screen[None]:
        return self.chat

    def on_app_focus(self) -> None:
        """A browser's terminal begins without the focus, and so without a place for what is typed."""
        if self.screen is self.chat and self.chat.focused is None:
            self.chat.prompt.focus()

    def on_unmount(self) -> None:
        # Threads that wait for the daemon would keep the process alive.
        self._client.close()

    def action_theme(self) -> None:
        at = ORDER.index(self.theme) if self.theme in ORDER else -1
        self.theme = ORDER[(at + 1) % len(ORDER)]

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every binding of the chat by its description, and Textual's own."""
        yield from super().get_system_commands(screen)
        for binding in ChatScreen.BINDINGS:
            if isinstance(binding, Binding):
                yield SystemCommand(binding.description, binding.key, _Act(self, binding.action))


class _Act:
    """Runs an action of the chat when called."""

    def __init__(self, app: ChatApp, action: str) -> None:
        self._app = app
        self._action = action

    def __call__(self) -> None:
        app = self._app
        app.call_later(app.run_action, self._action, app.chat)
