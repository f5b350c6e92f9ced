"""Communities of a weighted graph, kept up to date edge by edge, and found anew by a library now and then.

Pairs of node numbers enter, community numbers leave. After each change the touched nodes may move to where that raises
modularity most, and then their neighbours: the local moving of Blondel et al., "Fast unfolding of communities" (2008).
`settle` runs Leiden (Traag et al., 2019) of graspologic-native from the present state.
"""

from __future__ import annotations

from collections.abc import Iterable

from memory_store.errors import PackageMissing

MOST_NEIGHBOURS, MOST_VISITS = 200, 40
"""A node with more neighbours stays where it is until `settle`, and one change makes so many nodes look around at most:
an add must not take longer the larger the graph is."""


class Communities:
    """Nodes are small whole numbers; one that has no edge is a community of its own."""

    def __init__(self) -> None:
        self._edges: dict[int, dict[int, float]] = {}
        self._of: dict[int, int] = {}
        self._degree: dict[int, float] = {}
        self._total: dict[int, float] = {}
        self._members: dict[int, set[int]] = {}
        self._twice = 0.0
        self._next = 0

    def of(self, node: int) -> int:
        """-1 for a node without an edge."""
        return self._of.get(node, -1)

    def members(self, node: int) -> set[int]:
        return set(self._members.get(self.of(node), {node}))

    def join(self, pairs: Iterable[tuple[int, int]], weight: float) -> None:
        """Add `weight` to each of these edges; an edge without weight is none. The nodes may move then."""
        touched: dict[int, None] = {}
        for one, other in pairs:
            self._weigh(one, other, weight)
            touched |= {one: None, other: None}
        waiting = dict(touched)
        for _ in range(MOST_VISITS):
            if not waiting:
                return
            node = next(iter(waiting))
            del waiting[node]
            if len(self._edges.get(node, ())) <= MOST_NEIGHBOURS and self._move(node):
                # Its neighbours elsewhere may want to follow.
                waiting |= {other: None for other in self._edges[node] if self._of[other] != self._of[node]}

    def modularity(self) -> float:
        """From -0.5 to 1; 0 without edges."""
        if self._twice <= 0:
            return 0.0
        within = sum(w for n, near in self._edges.items() for o, w in near.items() if self._of[n] == self._of[o])
        return within / self._twice - sum((total / self._twice) ** 2 for total in self._total.values())

    def settle(self) -> float:
        """Raises PackageMissing."""
        try:
            import graspologic_native
        except ImportError as error:
            hint = "pip install 'localai-daemon[graph]'"
            raise PackageMissing("finding communities anew needs graspologic-native", hint) from error
        edges = [
            (str(one), str(other), weight)
            for one, near in self._edges.items()
            for other, weight in near.items()
            if one < other
        ]
        if not edges:
            return 0.0
        numbers = {community: number for number, community in enumerate(sorted(set(self._of.values())))}
        start = {str(node): numbers[community] for node, community in self._of.items()}
        _, found = graspologic_native.leiden(edges, starting_communities=start, seed=1)
        self._of, self._total, self._members = {}, {}, {}
        self._next = 0
        for name, community in sorted(found.items(), key=lambda pair: int(pair[0])):
            self._place(int(name), community)
            self._next = max(self._next, community + 1)
        return self.modularity()

    def _weigh(self, one: int, other: int, weight: float) -> None:
        for node, beside in ((one, other), (other, one)):
            near = self._edges.setdefault(node, {})
            if node not in self._of:
                self._place(node, self._next)
                self._next += 1
            near[beside] = near.get(beside, 0.0) + weight
            self._degree[node] = self._degree.get(node, 0.0) + weight
            self._total[self._of[node]] += weight
            self._twice += weight
            if near[beside] <= 0:
                del near[beside]
        for node in (one, other):
            if not self._edges[node]:
                self._leave(node)
                del self._edges[node], self._degree[node], self._of[node]

    def _move(self, node: int) -> bool:
        """To the community of its neighbours with the greatest gain, the lowest number among equals; or it stays."""
        near = self._edges.get(node)
        if not near:
            return False
        towards: dict[int, float] = {}
        for other, weight in near.items():
            towards[self._of[other]] = towards.get(self._of[other], 0.0) + weight
        own, degree = self._of[node], self._degree[node]

        def gain(community: int) -> float:
            total = self._total[community] - (degree if community == own else 0.0)
            return towards.get(community, 0.0) - degree * total / self._twice

        best = min(towards, key=lambda community: (-round(gain(community), 9), community))
        if gain(best) <= gain(own) + 1e-9:
            return False
        self._leave(node)
        self._place(node, best)
        return True

    def _place(self, node: int, community: int) -> None:
        self._of[node] = community
        self._members.setdefault(community, set()).add(node)
        self._total[community] = self._total.get(community, 0.0) + self._degree.get(node, 0.0)

    def _leave(self, node: int) -> None:
        community = self._of[node]
        self._members[community].discard(node)
        self._total[community] -= self._degree.get(node, 0.0)
        if not self._members[community]:
            del self._members[community], self._total[community]
