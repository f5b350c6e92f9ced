"""A conversation as the tree of all its branches: messages of every branch enter, places in the tree leave. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from localai.sanitize import one_line


@dataclass(frozen=True, slots=True)
class Node:
    """One message, by its first words."""

    id: str
    parent: str | None
    role: str
    snippet: str


class Tree:
    """`head` is the message at the end of the branch that is shown."""

    def __init__(self, nodes: tuple[Node, ...] = (), head: str | None = None) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.head = head
        self._below: dict[str | None, list[str]] = {}
        for node in nodes:
            self._below.setdefault(node.parent, []).append(node.id)

    def add(self, node: Node) -> None:
        """A message that has just been written; it is the head now."""
        if node.id not in self.nodes:
            self.nodes[node.id] = node
            self._below.setdefault(node.parent, []).append(node.id)
        self.head = node.id

    def children(self, message: str | None) -> tuple[str, ...]:
        """The oldest first; of None, the roots."""
        return tuple(self._below.get(message, ()))

    def place(self, message: str) -> tuple[int, int]:
        """Which of how many siblings it is, counted from 1; (1, 1) for one that is not known."""
        if message not in self.nodes:
            return 1, 1
        beside = self.children(self.nodes[message].parent)
        return beside.index(message) + 1, len(beside)

    def sibling(self, message: str, step: int) -> str | None:
        """The end of the branch through the next (1) or previous (-1) sibling; None where there is none."""
        if message not in self.nodes:
            return None
        beside = self.children(self.nodes[message].parent)
        at = beside.index(message) + step
        return self.end(beside[at]) if 0 <= at < len(beside) else None

    def end(self, message: str) -> str:
        """The newest leaf below a message."""
        while self._below.get(message):
            message = self._below[message][-1]
        return message

    def path(self, message: str | None) -> tuple[str, ...]:
        """Ids from the root to `message`."""
        found: list[str] = []
        while message is not None and message in self.nodes:
            found.append(message)
            message = self.nodes[message].parent
        return tuple(reversed(found))

    def rows(self) -> Iterator[tuple[int, Node]]:
        """Every message with its depth in branchings, in the order of reading: a chain without branches stays flat."""
        waiting = [(0, root) for root in reversed(self.children(None))]
        while waiting:
            depth, name = waiting.pop()
            yield depth, self.nodes[name]
            below = self.children(name)
            deeper = depth + (len(below) > 1)
            waiting += [(deeper, child) for child in reversed(below)]


def tree_of(body: dict[str, Any]) -> Tree:
    nodes = tuple(Node(m["id"], m["parent"], m["role"], one_line(m["snippet"])) for m in body["messages"])
    return Tree(nodes, body["head"])
