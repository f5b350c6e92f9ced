"""What is named together: entities as nodes, memories as what joins them, communities kept up to date at every add.

The store's log enters, neighbours of memories leave, with the names that join them. All of it is in RAM and made from
the texts, so erasure has nothing to scrub here. It knows nothing of search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from threading import Lock

from memory_store import log
from memory_store.communities import Communities
from memory_store.entities import names
from memory_store.store import Store

MOST_SHARED = 50
"""An entity that more memories name joins nothing: it is a topic, not a link."""
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class Link:
    """A memory that names what a found one names: `weight` from 0 to about 1, and the names, the rarest first."""

    num: int
    weight: float
    names: tuple[str, ...]


class Graph:
    """Of one store, by namespace. Follows the store's log; safe from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._seq = 0
        self._named: dict[int, tuple[int, ...]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._keys: list[tuple[str, str]] = []
        self._mentions: list[dict[int, None]] = []
        self._communities = Communities()

    def __len__(self) -> int:
        """Entities that are named now."""
        return sum(map(bool, self._mentions))

    def follow(self) -> int:
        """Take in what the store has logged since the last call; returns how many entries that were."""
        with self._lock:
            done = 0
            while True:
                with self._store.reading() as connection:
                    changes = log.changes(connection, self._seq, _PAGE)
                if not changes:
                    return done
                gone = {change.num for change in changes if change.op == "erase"}
                new = [change.num for change in changes if change.op == "add" and change.num not in gone]
                for num in sorted(gone):
                    self._remove(num)
                for memory in self._store.get_many(new):
                    self._add(memory.num, memory.namespace, (*names(memory.text), *map(str.casefold, memory.tags)))
                self._seq = changes[-1].seq
                done += len(changes)

    def links(self, namespace: str, seeds: Mapping[int, float], most: int = 50) -> list[Link]:
        """What the memories `seeds`, with their scores, are joined to by rare names; the strongest first.

        A seed is never linked to itself. An entity of the seeds' own main community counts fully, another one half.
        """
        with self._lock:
            home = self._home(seeds)
            weights: dict[int, float] = {}
            joined: dict[int, list[tuple[int, str]]] = {}
            for seed, score in sorted(seeds.items()):
                for entity in self._named.get(seed, ()):
                    shared = self._mentions[entity]
                    if self._keys[entity][0] != namespace or not 2 <= len(shared) <= MOST_SHARED:
                        continue
                    part = score / math.log2(2 * len(shared)) / math.sqrt(len(self._named[seed]))
                    part *= 1.0 if self._communities.of(entity) == home else 0.5
                    for num in shared:
                        if num != seed:
                            weights[num] = weights.get(num, 0.0) + part
                            joined.setdefault(num, []).append((len(shared), self._keys[entity][1]))
            best = sorted(weights, key=lambda num: (-round(weights[num], 9), num))[:most]
            return [Link(num, weights[num], tuple(name for _, name in sorted(set(joined[num])))) for num in best]

    def community(self, name: str, namespace: str) -> tuple[str, ...]:
        """The entities that belong with this one, itself among them; () for a name that is unknown."""
        with self._lock:
            entity = self._numbers.get((namespace, name.casefold()))
            if entity is None:
                return ()
            return tuple(sorted(self._keys[other][1] for other in self._communities.members(entity)))

    def settle(self) -> float:
        """Find the communities anew with the Leiden algorithm, from where they stand; returns their modularity.

        Raises PackageMissing where graspologic-native is not installed.
        """
        with self._lock:
            return self._communities.settle()

    def modularity(self) -> float:
        with self._lock:
            return self._communities.modularity()

    def _home(self, seeds: Iterable[int]) -> int:
        counts: dict[int, int] = {}
        for seed in seeds:
            for entity in self._named.get(seed, ()):
                community = self._communities.of(entity)
                counts[community] = counts.get(community, 0) + 1
        return min(counts, key=lambda community: (-counts[community], community), default=-1)

    def _add(self, num: int, namespace: str, found: Sequence[str]) -> None:
        if num in self._named:
            return
        entities = tuple(self._number(namespace, name) for name in dict.fromkeys(found))
        self._named[num] = entities
        for entity in entities:
            self._mentions[entity][num] = None
        self._communities.join(combinations(entities, 2), 1.0)

    def _remove(self, num: int) -> None:
        entities = self._named.pop(num, ())
        for entity in entities:
            self._mentions[entity].pop(num, None)
        self._communities.join(combinations(entities, 2), -1.0)
        for entity in entities:
            # The name itself may be what was to be forgotten.
            if not self._mentions[entity]:
                self._numbers.pop(self._keys[entity], None)
                self._keys[entity] = ("", "")

    def _number(self, namespace: str, name: str) -> int:
        key = (namespace, name)
        if key not in self._numbers:
            self._numbers[key] = len(self._keys)
            self._keys.append(key)
            self._mentions.append({})
        return self._numbers[key]
