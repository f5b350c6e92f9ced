"""Which blocks there are, by the tokens that they hold: the filter in RAM that answers every question of membership.

A child of a node continues its tokens. Content lies in tiers; a node only knows in which.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from backends.kv.keys import block_key
from backends.prefix import common_prefix


@dataclass(slots=True, eq=False)
class Node:
    """A block of `tokens` at positions `start`.. of a sequence; a root has none. Times are Unix seconds.

    `payload` is its content in RAM, `on_ssd` that the index has it, `writing` that it is on its way there, `reading`
    what brings it back, `fresh` that it came from the SSD and was not used since.
    """

    key: bytes
    parent: Node | None
    tokens: array[int]
    start: int
    size: int = 0
    cost_s: float = 0.0
    uses: int = 1
    created: float = field(default_factory=time.time)
    used: float = field(default_factory=time.time)
    payload: bytearray | None = None
    reading: Future[bytearray | None] | None = None
    on_ssd: bool = False
    writing: bool = False
    fresh: bool = False
    gone: bool = False
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def in_ram(self) -> bool:
        return self.payload is not None or self.reading is not None

    @property
    def present(self) -> bool:
        """True where its content can be had from some tier."""
        return self.in_ram or self.on_ssd


@dataclass(frozen=True, slots=True)
class Step:
    """The first `take` tokens of a node's block."""

    node: Node
    take: int


@dataclass(frozen=True, slots=True)
class Match:
    """Blocks that hold the beginning of a sequence, in order of position."""

    root: Node
    steps: tuple[Step, ...]

    @property
    def length(self) -> int:
        """Tokens that the blocks hold of it."""
        return self.steps[-1].node.start + self.steps[-1].take if self.steps else 0


class Tree:
    """All nodes under one root. `whole` says that a block cannot be cut; `block` is its length, 0 for any."""

    def __init__(self, root: bytes, block: int, *, whole: bool) -> None:
        self.root = Node(root, None, array("I"), 0)
        self._block = block
        self._whole = whole

    def match(self, tokens: array[int]) -> Match:
        """The longest beginning of `tokens` whose blocks are present."""
        steps: list[Step] = []
        node = self.root
        while self._block and len(tokens) - node.end >= self._block:
            child = node.children.get(block_key(node.key, tokens[node.end : node.end + self._block]))
            if child is None or not child.present:
                break
            steps.append(Step(child, self._block))
            node = child
        rest = tokens[node.end : node.end + self._block] if self._block else tokens
        best = self._best(node, rest) if rest else None
        return Match(self.root, (*steps, best) if best else tuple(steps))

    def _best(self, node: Node, rest: array[int]) -> Step | None:
        """The child with the longest beginning in common, the smallest where several have it."""
        found = [Step(child, common_prefix(rest, child.tokens)) for child in node.children.values() if child.present]
        if self._whole:
            found = [step for step in found if step.take == len(step.node.tokens)]
        best = max(found, key=lambda step: (step.take, -step.node.size), default=None)
        return best if best is not None and best.take else None

    def covering(self, parent: Node, tokens: array[int]) -> Node | None:
        """A present child that holds `tokens`, perhaps with more behind them."""
        exact = parent.children.get(block_key(parent.key, tokens))
        if exact is not None and exact.present:
            return exact
        if self._whole or len(tokens) == self._block:
            return None
        step = self._best(parent, tokens)
        return step.node if step is not None and step.take == len(tokens) else None

    def add(self, parent: Node, tokens: array[int]) -> Node:
        """The child of `parent` for `tokens`, made where it is missing."""
        key = block_key(parent.key, tokens)
        node = parent.children.get(key) or Node(key, parent, tokens, parent.end)
        self._attach(node)
        return node

    def _attach(self, node: Node) -> None:
        while node.parent is not None and node.parent.children.get(node.key) is not node:
            node.gone = False
            node.parent.children[node.key] = node
            node = node.parent

    def superseded(self, node: Node) -> list[Node]:
        """Siblings that hold nothing but the beginning of `node`: they would never be the better match again."""
        if self._whole or node.parent is None:
            return []
        size = len(node.tokens)
        return [
            other
            for other in node.parent.children.values()
            if len(other.tokens) < size and not other.children and node.tokens[: len(other.tokens)] == other.tokens
        ]

    def prune(self, node: Node) -> None:
        """Forget a node without content, and its parents, as far as nothing hangs on them."""
        while node.parent is not None and not (node.present or node.writing or node.children):
            if node.parent.children.get(node.key) is node:
                del node.parent.children[node.key]
            node.gone = True
            node = node.parent

    def __iter__(self) -> Iterator[Node]:
        """All nodes but the root."""
        left = list(self.root.children.values())
        while left:
            node = left.pop()
            left.extend(node.children.values())
            yield node
