"""The KV cache of one engine child outside its cells: a tree of blocks over two tiers, RAM and SSD.

Tokens and an engine's bytes enter, and the same bytes leave. One thread calls; what waits for a disk is done behind.
A block that is missing, damaged or another model's is forgotten, and never an error.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from backends.kv import block_file
from backends.kv.block_file import BadBlock
from backends.kv.codecs import Codec
from backends.kv.index import Index, IndexUnusable, Row, file_size
from backends.kv.keys import branch_key, packed
from backends.kv.policy import ExpectedSaving, Policy
from backends.kv.quotes import Quotes
from backends.kv.ram_tier import RamTier
from backends.kv.recording import Recorder
from backends.kv.speed import Speed
from backends.kv.tree import Match, Node, Step, Tree
from backends.kv.writer import Writer
from backends.kv_frames import KvGrant, KvReport, Tier
from backends.prefix import Held

_PID = os.getpid()
_RETRY_S = 2.0


@dataclass(slots=True)
class _Counts:
    """Since this child began; see `contract.KvReport`."""

    hit_tokens: dict[Tier, int] = field(default_factory=lambda: {"live": 0, "ram": 0, "ssd": 0})
    restores: dict[Tier, int] = field(default_factory=lambda: {"ram": 0, "ssd": 0})
    restored_bytes: dict[Tier, int] = field(default_factory=lambda: {"ram": 0, "ssd": 0})
    bad: int = 0
    refused: int = 0
    short: int = 0


class Store:
    """Blocks of `codec`'s length under the keys that start from `root`, within `grant`."""

    def __init__(self, grant: KvGrant, root: bytes, codec: Codec, policy: Policy | None = None) -> None:
        self.counts = _Counts()
        self.codec = codec
        self.speed = Speed()
        self._root = root
        self._folder = Path(grant.folder)
        self._trees: dict[Hashable, Tree] = {}
        self._by_key: dict[bytes, Node] = {}
        self._uses: dict[bytes, int] = {}
        self._reading: set[Node] = set()
        self._ram = RamTier(grant.ram, policy or ExpectedSaving(), self._forget)
        self._ssd = grant.ssd if grant.folder else 0
        self._writer = Writer(self._folder, self._ssd) if self._ssd else None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="kv-reader") if self._ssd else None
        self.problem = ""
        self.recorder = Recorder(Path(grant.trace)) if grant.trace else None
        self._retry_at = 0.0
        self._passing = b""
        # Now, while the model loads, rather than when the first request waits.
        self._tree(())

    # -- finding

    def match(self, held: Held) -> Match:
        """The longest beginning of `held` that some tier has. Reads no file."""
        return self._tree(held.root).match(packed(held.tokens))

    def _tree(self, branch: Hashable) -> Tree:
        tree = self._trees.get(branch)
        if tree is None:
            parts = branch if isinstance(branch, tuple) else (branch,)
            root = branch_key(self._root, parts)
            tree = self._trees[branch] = Tree(root, self.codec.block, whole=self.codec.whole)
            self._fill(tree)
        return tree

    def _fill(self, tree: Tree) -> None:
        """Learn from the index what earlier children left; what hangs on nothing is removed."""
        if self._writer is None:
            return
        try:
            index = Index(self._folder)
            try:
                rows = index.rows(tree.root.key)
            finally:
                index.close()
        except IndexUnusable as error:
            self.problem = str(error)
            return
        nodes = {tree.root.key: tree.root}
        for row in rows:
            parent = nodes.get(row.parent)
            if parent is None or not row.ready:
                self._writer.drop(row.key)
                continue
            node = tree.add(parent, row.tokens)
            node.size, node.cost_s, node.uses = row.bytes, row.cost_s, row.uses
            node.created, node.used, node.on_ssd = row.created, row.used, True
            nodes[row.key] = self._by_key[row.key] = node

    # -- taking

    def lease(self, steps: Sequence[Step]) -> None:
        """Keep the daemon from evicting what will be taken soon."""
        keys = [step.node.key for step in steps if step.node.on_ssd and not step.node.in_ram]
        if keys and self._writer is not None:
            self._writer.lease(keys)

    def read_ahead(self, steps: Sequence[Step]) -> None:
        """Begin to read what lies on the SSD alone, as far as RAM is granted for it."""
        for step in steps:
            node = step.node
            if not node.in_ram and not self._start_reading(node):
                return

    def _start_reading(self, node: Node) -> bool:
        if self._reader is None or not node.on_ssd or not self._ram.admit(node, node.size):
            return False
        node.reading = self._reader.submit(self._read, node.key)
        self._reading.add(node)
        return True

    def _read(self, key: bytes) -> bytearray | None:
        begun = time.monotonic()
        try:
            payload = block_file.read(block_file.place(self._folder, key), key)
        except BadBlock:
            return None
        self.speed.read(len(payload), time.monotonic() - begun)
        return payload

    def reading(self, match: Match) -> bool:
        """Whether something of it is still on its way from the SSD."""
        return any(s.node.reading is not None and not s.node.reading.done() for s in match.steps)

    def take(self, node: Node) -> tuple[bytearray, Tier] | None:
        """A block's content and where it was, waiting for the disk if need be; None where it turns out to be bad."""
        tier: Tier = "ssd" if node.fresh or node.payload is None else "ram"
        payload = node.payload
        if node.reading is not None:
            self._arrived(node, node.reading)
            payload = node.payload
        elif payload is None and node.on_ssd:
            payload = self._read(node.key)
            if payload is not None and self._ram.admit(node, len(payload)):
                node.payload = payload
        if payload is None:
            self.discard(node)
            return None
        node.fresh = False
        node.uses += 1
        node.used = time.time()
        self._uses[node.key] = self._uses.get(node.key, 0) + 1
        self.counts.restores[tier] += 1
        self.counts.restored_bytes[tier] += len(payload)
        return payload, tier

    def _arrived(self, node: Node, reading: Future[bytearray | None]) -> None:
        payload = reading.result()
        node.reading = None
        if payload is None:
            self.discard(node)
        else:
            node.payload, node.fresh = payload, True

    def discard(self, node: Node) -> None:
        """Forget a block that is damaged, or that the engine refused."""
        self.counts.bad += 1
        self._remove(node)

    def _remove(self, node: Node) -> None:
        self._ram.remove(node)
        if (node.on_ssd or node.writing) and self._writer is not None:
            self._writer.drop(node.key)
        node.on_ssd = node.writing = False
        self._forget(node)

    def _forget(self, node: Node) -> None:
        if not node.present and not node.writing:
            self._by_key.pop(node.key, None)
            self._tree_of(node).prune(node)

    def _tree_of(self, node: Node) -> Tree:
        while node.parent is not None:
            node = node.parent
        return next(tree for tree in self._trees.values() if tree.root is node)

    # -- keeping

    def root(self, held: Held) -> Node:
        """What the first block of a sequence follows."""
        return self._tree(held.root).root

    def known(self, parent: Node, tokens: array[int]) -> Node | None:
        """A block that holds `tokens` behind `parent` already."""
        return self._tree_of(parent).covering(parent, tokens)

    def has_room(self, size: int) -> bool:
        """Whether a block of about `size` bytes could be kept; asked before it is exported."""
        return self._ram.could_admit(size) or (self._writer is not None and not self._passing)

    def put(self, parent: Node, tokens: array[int], payload: bytearray, cost_s: float) -> Node | None:
        """Keep a block that took `cost_s` to compute; None where there is no room, or the SSD lags behind.

        Without RAM for it, one block at a time passes through on its way to the SSD.
        """
        tree = self._tree_of(parent)
        node = tree.add(parent, tokens)
        node.cost_s = cost_s
        if self._ram.admit(node, len(payload)):
            node.payload = payload
        elif self._writer is None or self._passing:
            self.counts.refused += 1
            tree.prune(node)
            return None
        else:
            self._passing = node.key
        node.size = len(payload)
        self._by_key[node.key] = node
        for other in tree.superseded(node):
            self._remove(other)
        if self._writer is not None and not node.on_ssd:
            self._write(self._writer, node, payload)
        return node

    def _write(self, writer: Writer, node: Node, payload: bytearray) -> None:
        assert node.parent is not None
        node.writing = True
        size = file_size(len(payload))
        times = (node.created, node.used)
        root = self._tree_of(node).root.key
        row = Row(
            node.key, root, node.parent.key, node.start, node.tokens, size, node.cost_s, node.uses, *times, owner=_PID
        )
        writer.write(row, payload)

    def settle(self) -> None:
        """Take note of what the disk has done meanwhile."""
        writer = self._writer
        if writer is None:
            return
        while not writer.results.empty():
            done = writer.results.get()
            if done.key == self._passing:
                self._passing = b""
            node = self._by_key.get(done.key)
            if node is None:
                continue
            node.writing = False
            node.on_ssd = node.on_ssd or done.stored
            self.counts.short += done.short
            self._forget(node)
        for node in [n for n in self._reading if n.reading is None or n.reading.done()]:
            if node.reading is not None:
                self._arrived(node, node.reading)
            self._reading.discard(node)
        if self._uses:
            writer.touch(self._uses)
            self._uses = {}
        if time.monotonic() >= self._retry_at:
            self._write_missing(writer)

    def _write_missing(self, writer: Writer) -> None:
        """Try again with blocks that the SSD had no room for."""
        self._retry_at = time.monotonic() + _RETRY_S
        for node in self._ram.nodes:
            if node.payload is not None and not (node.on_ssd or node.writing):
                self._write(writer, node, node.payload)

    def forget(self, keys: list[bytes]) -> None:
        """Blocks that the daemon has removed from the SSD."""
        for key in keys:
            node = self._by_key.get(key)
            if node is not None:
                node.on_ssd = False
                self._forget(node)

    def purge(self, quotes: Quotes) -> int:
        """Remove all blocks that hold a quotation, with what continues them, from both tiers; how many they were.

        One that reaches over the border of two blocks takes both with it.
        """
        doomed: list[Node] = []
        for tree in self._trees.values():
            waiting = [(node, b"") for node in tree.root.children.values()]
            lost: set[Node] = set()
            while waiting:
                node, before = waiting.pop()
                text = before + quotes.bytes_of(node.tokens)
                place = quotes.first(text)
                if place >= 0:
                    lost.add(node.parent if 0 <= place < len(before) and node.parent is not None else node)
                tail = text[-quotes.reach :] if quotes.reach else b""
                waiting += [(child, tail) for child in node.children.values()]
            doomed += [node for node in tree if any(up in lost for up in _line(node))]
        # What continues a block before the block itself.
        for node in sorted(doomed, key=lambda node: -node.start):
            self._remove(node)
        return len(doomed)

    def roots(self) -> list[bytes]:
        """The keys that the blocks of this child hang on."""
        return [tree.root.key for tree in self._trees.values()]

    def when_written(self, call: Callable[[], None]) -> None:
        """Call back, from another thread perhaps, when the disk has done all that was asked of it."""
        if self._writer is None:
            call()
        else:
            self._writer.then(call)

    def report(self) -> KvReport:
        """Counts since the beginning, and what the tiers hold now."""
        counts = self.counts
        return KvReport(
            hit_tokens=dict(counts.hit_tokens),
            restores=dict(counts.restores),
            restored_bytes=dict(counts.restored_bytes),
            ram_bytes=self._ram.bytes,
            ram_blocks=len(self._ram),
            ram_evictions=self._ram.evictions,
            bad=counts.bad,
            refused=counts.refused,
            short=counts.short,
            problem=(self._writer.problem if self._writer else "")
            or self.problem
            or (self.recorder.problem if self.recorder else ""),
        )

    def close(self, seconds: float) -> None:
        """Write what is queued, for so many seconds at most."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        if self._writer is not None:
            self._retry_at = 0.0
            self.settle()
            self._writer.close(seconds)


def _line(node: Node) -> Iterator[Node]:
    """A node and all that it continues."""
    up: Node | None = node
    while up is not None:
        yield up
        up = up.parent
