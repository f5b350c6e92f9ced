"""The terminal chat as an application: its screen, its themes, its keys. It reaches the daemon through one client."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from localai.client import Client
from localai.unsent import FOLDER
from tui.chat_screen import ChatScreen
from tui.commands import COMMANDS, Command
from tui.settings import Settings, settings_of
from tui.themes import ORDER, THEMES

SETTINGS = "chat.toml"
USUAL = Settings()


def run(client: Client, conversation: str | None, model: str | None, home: Path) -> str | None:
    """Show the chat until the person leaves; `conversation` is the id of one to continue. Closes the client.

    Settings and drafts are in `home`. Gives the id of the conversation that was shown last.
    """
    app = ChatApp(client, conversation, model, settings=settings_of(home / SETTINGS, IDS), drafts=home / FOLDER)
    try:
        app.run()
    finally:
        client.close()
    return app.chat.conversation


class ChatApp(App[None]):
    TITLE = "localai"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", priority=True, id="quit"),
        Binding("ctrl+p", "command_palette", "All commands", show=False, id="palette"),
    ]
    # At the top, where it hides no word that is being typed.
    CSS = "ToastRack { dock: top; align: right top; margin-top: 1; }"
    COMMAND_PALETTE_BINDING = "ctrl+p"

    def __init__(
        self,
        client: Client,
        conversation: str | None = None,
        model: str | None = None,
        *,
        settings: Settings = USUAL,
        folder: Path | None = None,
        drafts: Path | None = None,
    ) -> None:
        super().__init__()
        for each in THEMES:
            self.register_theme(each)
        if settings.theme in self.available_themes:
            self.theme = settings.theme
        self.set_keymap(dict(settings.keys))
        self._client = client
        self.chat = ChatScreen(client, conversation, model, folder or Path.cwd(), settings, drafts)

    def get_default_screen(self) -> Screen[None]:
        return self.chat

    def on_mount(self) -> None:
        """At once: what was typed while the program started is next in the queue, and belongs into the prompt."""
        self.chat.set_focus(self.chat.prompt)

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
        """Every binding of the chat by its description, every slash command, and Textual's own."""
        yield from super().get_system_commands(screen)
        for binding in ChatScreen.BINDINGS:
            if isinstance(binding, Binding):
                yield SystemCommand(binding.description, binding.key, _Act(self, binding.action))
        for command in COMMANDS:
            written = f"/{command.name}" if command.complete else f"/{command.name} {command.argument}"
            yield SystemCommand(written, command.help, _Type(self, command))


class _Act:
    """Runs an action of the chat when called."""

    def __init__(self, app: ChatApp, action: str) -> None:
        self._app = app
        self._action = action

    def __call__(self) -> None:
        app = self._app
        app.call_later(app.run_action, self._action, app.chat)


class _Type:
    """Does what typing a slash command would do; one that needs more is left in the prompt to be finished."""

    def __init__(self, app: ChatApp, command: Command) -> None:
        self._app = app
        self._command = command

    def __call__(self) -> None:
        chat, typed = self._app.chat, f"/{self._command.name}"
        while self._app.screen is not chat:
            self._app.pop_screen()
        if self._command.complete:
            chat.run_command(typed)
        else:
            chat.prompt.put_back(f"{typed} ")
            chat.prompt.focus()


IDS = frozenset(
    binding.id for binding in (*ChatScreen.BINDINGS, *ChatApp.BINDINGS) if isinstance(binding, Binding) and binding.id
)
"""What `chat.toml` may give another key."""
