"""All branches of a conversation as a tree over the chat; leaves with the message at the end of the chosen branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList

from tui.listing import ListScreen
from tui.tree import Node, Tree

_MARKS = {"user": ">", "assistant": "<", "tool": "·"}


class Branches(ListScreen[str]):
    HEADING = "Branches: Enter shows the one through a message; * is shown now"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+d", "delete", "Delete branch")]

    def __init__(self, tree: Tree, cut: Callable[[str], Tree]) -> None:
        """`cut` deletes a message with all that follows, and gives the tree that is left. It blocks."""
        super().__init__()
        self._tree = tree
        self._cut = cut
        self._doomed: str | None = None

    def on_mount(self) -> None:
        self._show(self._tree)
        shown = self._tree.path(self._tree.head)
        if shown:
            self.rows.highlighted = self.rows.get_option_index(shown[-1])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._tree.end(event.option_id) if event.option_id else None)

    def action_delete(self) -> None:
        """Asked for twice: nothing brings it back."""
        chosen = self.chosen
        if chosen is not None and chosen == self._doomed:
            self.fetch(lambda: self._cut(chosen), self._show)
        elif chosen is not None:
            self._doomed = chosen
            self.heading.update("Ctrl+D again deletes this message and all that follows it")

    def _show(self, tree: Tree) -> None:
        self._tree, self._doomed = tree, None
        shown = set(tree.path(tree.head))
        self.fill(
            (
                (
                    node.id,
                    f"{'*' if node.id in shown else ' '} {_row_text(depth, node)}",
                )
                for depth, node in tree.rows()
            ),
            empty="No messages yet",
        )


def _row_text(depth: int, node: Node) -> str:
    return f"{'  ' * depth}{_MARKS.get(node.role, '?')} {node.snippet}"
