"""Replays traces of use against eviction policies: how much prefill time each saves with the same bytes.

    python -m tests.perf.kv_replay [--gib 0.5 2] [--trace FILE]

Made-up traces come from `kv_traces`; a file has one JSON object a line with `at`, `prompt` and `answer` as there.
`traces/agents.jsonl.xz` was recorded by `record_use`: 200 pieces of work of three agents, a chat and an editor.
Costs are of a model that computes 300 tokens/s, slower with depth, and keeps 23,040 bytes a token; no engine runs.
"""

from __future__ import annotations

import argparse
import json
import lzma
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from backends.kv.keys import BLOCK
from backends.kv.policy import ExpectedSaving, LeastFrequent, LeastRecent, Policy
from backends.kv.ram_tier import RamTier
from backends.kv.tree import Node, Tree
from tests.perf.kv_traces import GRANULE, TRACES, Visit

BYTES_PER_TOKEN = 23_040
POLICIES: dict[str, Policy] = {"LRU": LeastRecent(), "LFU": LeastFrequent(), "expected saving": ExpectedSaving()}
SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
_GIB = 2**30


def prefill_s(start: int, end: int) -> float:
    """Seconds to compute positions `start` to `end`: linear in tokens, and in what they attend to."""
    return sum((to - at) / 300 * (1 + (at + to) / 2 / 4000) for at, to in [(start, end)])


class Cache:
    """The product's own tree and RAM tier under a clock of the trace; content is only counted."""

    def __init__(self, budget: int, policy: Policy) -> None:
        self.now = 0.0
        self._block = BLOCK // GRANULE
        self.tree = Tree(b"", self._block, whole=False)
        self.tier = RamTier(budget, policy, self.tree.prune, clock=lambda: self.now)

    def visit(self, visit: Visit) -> tuple[float, float]:
        """Seconds of prefill saved, and seconds that the whole prompt would have taken."""
        self.now = visit.at
        prompt, whole = packed64(visit.prompt), packed64(visit.prompt + visit.answer)
        saved = 0.0
        match = self.tree.match(prompt)
        for step in match.steps:
            saved += prefill_s(GRANULE * step.node.start, GRANULE * (step.node.start + step.take))
            step.node.uses += 1
            step.node.used = visit.at
        self._keep(whole)
        return saved, prefill_s(0, GRANULE * len(prompt))

    def _keep(self, tokens: array[int]) -> None:
        parent = self.tree.root
        while parent.end < len(tokens):
            part = tokens[parent.end : parent.end + self._block]
            node = self.tree.covering(parent, part) or self._put(parent, part)
            if node is None or len(part) < self._block:
                return
            parent = node

    def _put(self, parent: Node, part: array[int]) -> Node | None:
        node = self.tree.add(parent, part)
        node.created = node.used = self.now
        node.cost_s = prefill_s(GRANULE * node.start, GRANULE * node.end)
        # Content of one byte: what counts is what the tier thinks that it holds.
        node.payload = bytearray(1)
        if not self.tier.admit(node, GRANULE * len(part) * BYTES_PER_TOKEN):
            node.payload = None
            self.tree.prune(node)
            return None
        for other in self.tree.superseded(node):
            self.tier.remove(other)
            self.tree.prune(other)
        return node


def packed64(numbers: Iterable[int]) -> array[int]:
    return array("Q", numbers)


def replay(visits: Iterable[Visit], budget: int, policy: Policy) -> tuple[float, float]:
    """Seconds of prefill saved over the trace, and seconds that it takes without a cache."""
    cache = Cache(budget, policy)
    pairs = [cache.visit(visit) for visit in visits]
    return sum(saved for saved, _ in pairs), sum(whole for _, whole in pairs)


def recorded(path: Path) -> Iterator[Visit]:
    """A trace from a file, packed or not, oldest visit first."""
    read = lzma.open if path.suffix == ".xz" else open
    with read(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    for line in lines:
        found = json.loads(line)
        yield Visit(found["at"], tuple(found["prompt"]), tuple(found["answer"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, nargs="*", default=SIZES, help="sizes of the cache")
    parser.add_argument("--trace", type=Path, help="a recorded trace instead of the made-up ones")
    options = parser.parse_args()
    traces = {options.trace.name: list(recorded(options.trace))} if options.trace else None
    traces = traces or {name: list(make()) for name, make in TRACES.items()}
    columns = "".join(f"{name:>17}" for name in (*POLICIES, "nothing evicted"))
    print(f"{'share of prefill saved':24}{columns}{'against LRU':>14}")
    for name, visits in traces.items():
        endless = sum(len(visit.prompt) + len(visit.answer) for visit in visits) * GRANULE * BYTES_PER_TOKEN
        most, whole = replay(visits, endless, LeastRecent())
        for size in options.gib:
            found = {n: replay(visits, int(size * _GIB), policy) for n, policy in POLICIES.items()}
            shares = {n: saved / whole for n, (saved, whole) in found.items()}
            gain = shares["expected saving"] / shares["LRU"] - 1 if shares["LRU"] else 0.0
            row = "".join(f"{share:17.1%}" for share in (*shares.values(), most / whole))
            print(f"{name:10}{size:8.2f} GiB  {row}{gain:+14.1%}")


if __name__ == "__main__":
    main()
