"""What the chat's threads tell the screen."""

from __future__ import annotations

from collections.abc import Callable

from textual.message import Message

from localai.errors import LocalaiError
from tui.wire import Chat, ChatLine


class Loaded(Message):
    """A conversation has been fetched to be shown."""

    def __init__(self, chat: Chat) -> None:
        super().__init__()
        self.chat = chat


class Titled(Message):
    """A conversation has been fetched for its title."""

    def __init__(self, chat: Chat) -> None:
        super().__init__()
        self.chat = chat


class Listed(Message):
    """The list of conversations has been fetched."""

    def __init__(self, chats: tuple[ChatLine, ...]) -> None:
        super().__init__()
        self.chats = chats


class Healthy(Message):
    """The daemon answers."""


class Failed(Message):
    """A request has failed; `again` repeats it."""

    def __init__(self, error: LocalaiError, again: Callable[[], object]) -> None:
        super().__init__()
        self.error = error
        self.again = again


class Tick(Message):
    """Time to show what has arrived of the answer."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Tick)
