"""The keys of the chat, read from the bindings themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.commands import COMMANDS


class Help(ModalScreen[None]):
    AUTO_FOCUS = "VerticalScroll"
    CSS = """
    Help { align: center middle; }
    Help VerticalScroll {
        width: 76; max-width: 95%; height: auto; max-height: 90%; border: round $primary; padding: 0 1;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1", "dismiss(None)", "Back")]

    def __init__(self, bindings: Iterable[Binding]) -> None:
        super().__init__()
        self._keys = [binding for binding in bindings if binding.description]

    def compose(self) -> ComposeResult:
        keys = [f"{keys_text(each.key):24}{each.description}{_named(each)}" for each in self._keys]
        typed = [f"{f'/{each.name} {each.argument}':24}{each.help}" for each in COMMANDS]
        with VerticalScroll():
            yield Static("\n".join([*keys, "", *typed]), markup=False)


def _named(binding: Binding) -> str:
    """By this name `chat.toml` gives it another key."""
    return f"  ({binding.id})" if binding.id else ""


_NAMES = {"escape": "Esc", "pageup": "PageUp", "pagedown": "PageDown"}


def keys_text(keys: str) -> str:
    """`shift+enter,ctrl+j` as people write it: `Shift+Enter, Ctrl+J`."""
    return ", ".join("+".join(_NAMES.get(k, k.capitalize()) for k in key.split("+")) for key in keys.split(","))
