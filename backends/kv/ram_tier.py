"""Blocks kept in RAM within a hard budget; the least worth goes first, and a block before the one it continues.

Knows the nodes of a tree and a policy; reading and writing files is for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from backends.kv.policy import Facts, Policy
from backends.kv.tree import Node


class RamTier:
    """At most `budget` bytes of content. `evicted` is told of each node whose content has just gone."""

    def __init__(
        self,
        budget: int,
        policy: Policy,
        evicted: Callable[[Node], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget = budget
        self.bytes = 0
        self.evictions = 0
        self._policy = policy
        self._clock = clock
        self._evicted = evicted
        self._nodes: set[Node] = set()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def nodes(self) -> list[Node]:
        return list(self._nodes)

    def admit(self, node: Node, size: int) -> bool:
        """Make room for a node's content and count it; False where what is kept cannot go, or it is too large.

        What the node continues stays: without it nobody would find the node.
        """
        if size > self.budget or not self._make_room(size, node.parent):
            return False
        node.size = size
        self._nodes.add(node)
        self.bytes += size
        return True

    def could_admit(self, size: int) -> bool:
        """Whether `size` bytes would fit if all went that can."""
        kept = sum(n.size for n in self._nodes if n.writing or n.reading is not None)
        return kept + size <= self.budget

    def _make_room(self, size: int, before: Node | None) -> bool:
        while self.bytes + size > self.budget:
            now = self._clock()
            span = now - min(node.used for node in self._nodes)
            free = [n for n in self._nodes if not n.writing and n.reading is None and not _continued(n)]
            victim = min(
                (n for n in free if n is not before),
                key=lambda n: self._policy.worth(facts(n), now, span),
                default=None,
            )
            if victim is None:
                return False
            self.remove(victim)
            self.evictions += 1
            self._evicted(victim)
        return True

    def remove(self, node: Node) -> None:
        """Let go of a node's content; nothing happens where there is none."""
        node.payload = node.reading = None
        node.fresh = False
        if node in self._nodes:
            self._nodes.remove(node)
            self.bytes -= node.size


def _continued(node: Node) -> bool:
    return any(child.in_ram for child in node.children.values())


def facts(node: Node) -> Facts:
    return Facts(node.size, node.cost_s, node.uses, node.created, node.used)
