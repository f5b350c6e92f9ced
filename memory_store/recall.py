"""Recall: a question in, the memories that answer it out, each with its score, its trust and the reason.

Words and vectors are fused, neighbouring turns lend to each other, what is not valid or not of the asked time is left
out, and distrust demotes. It asks two searches by their Protocols and knows nothing of how they are indexed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memory_store import rank, vector_rows, wording
from memory_store.dbfile import Connection
from memory_store.embed import Vectors, checked
from memory_store.errors import InvalidMemory
from memory_store.features import Candidate
from memory_store.graph import Graph
from memory_store.learned import Learned
from memory_store.plain_search import Numbers, PlainVectors, PlainWords, Scores, VectorSearch, WordSearch
from memory_store.rank import Parts, Turn, Weights
from memory_store.records import DEFAULT_NAMESPACE, Memory
from memory_store.reembed import Elder
from memory_store.store import Store
from memory_store.trust import Trust

POOL = 100
WIDEST = 20_000
LENDERS = 20
SEEDS = 5
"""So many of the best lead to other memories by what they name."""
BATCH = 16
LEARNED_DEPTH = 20
"""So many of the best are put into a learned order at least; what lies below them cannot come up."""
MOST_HITS = 1000
# A question of many pages is read by its beginning: beyond this words drown each other.
MOST_QUERY = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. `since` <= time < `until`. `at`: the moment for which it must be valid, None is now.

    `past` includes what was superseded or is no longer valid. `exact` asks the vector search for exactness.
    """

    text: str
    namespace: str = DEFAULT_NAMESPACE
    k: int = 10
    since: float | None = None
    until: float | None = None
    at: float | None = None
    past: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The reason of a hit: words and vector from 0 to 1, what neighbouring turns lent, and what they come to together.

    `share`: how much the words counted for this question, the rest is the vector's. `cosine` is the likeness itself,
    which says whether the best of few is any good. `learned` is what the score was multiplied by, from what was kept
    before.
    """

    words: float
    vector: float
    turns: float
    cosine: float
    relevance: float
    share: float = 1.0
    graph: float = 0.0
    learned: float = 1.0
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        parts = [("words", self.words), ("meaning", self.vector), ("neighbouring turns", self.turns)]
        parts.append(("shared names", self.graph))
        told = ", ".join(f"{name} {value:.2f}" for name, value in parts if value > 0.005)
        told += f" (words count {100 * self.share:.0f} %)" if min(self.words, self.vector) > 0.005 else ""
        taste = (f"x {self.learned:.2f} by what you kept before",) if abs(self.learned - 1) > 0.005 else ()
        return "; ".join((told or "faint likeness", *taste, *self.notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """`score` = relevance x trust x what was learned, 0 to about 1.4 before that. `trust` is 0 to 1, and demotes."""

    memory: Memory
    score: float
    trust: float
    why: Why


class Recall:
    """Search over one store. Deterministic: the same question on the same store gives the same hits."""

    def __init__(
        self,
        store: Store,
        trust: Trust | None = None,
        *,
        words: WordSearch | None = None,
        vectors: VectorSearch | None = None,
        weights: Weights | None = None,
        graph: Graph | None = None,
        elder: Elder | None = None,
    ) -> None:
        """`graph`: asked where `weights.graph` is not 0, None makes one then. `elder`: while vectors are made anew."""
        self._elder = elder
        self._store = store
        # The vectors are of this one, whatever the store adopts later.
        self._embedder = store.embedder
        self._trust = Trust(store) if trust is None else trust
        self._words: WordSearch = PlainWords(store) if words is None else words
        self._vectors: VectorSearch = PlainVectors(store) if vectors is None else vectors
        self._weights = Weights() if weights is None else weights
        self._learned = Learned(store.salt)
        self._graph = Graph(store) if graph is None and self._weights.graph else graph

    def search(self, question: Question, *, learned: bool = True) -> tuple[Hit, ...]:
        """At most `k` hits, best first. Raises InvalidMemory for a question that cannot be asked.

        `learned` False leaves out what was learned from feedback.
        """
        _check(question)
        with self._store.asking():
            return self._ranked(question, learned)

    def _ranked(self, question: Question, learned: bool) -> tuple[Hit, ...]:
        with self._store.reading() as connection:
            if not learned or self._learned.model(connection) is None:
                return self._search(question)
        hits = self._search(replace(question, k=min(MOST_HITS, max(LEARNED_DEPTH, question.k))))
        with self._store.reading() as connection:
            factors = self._learned.factors(connection, question.text, [candidate(hit) for hit in hits])
        pairs = zip(hits, factors, strict=True)
        ranked = [replace(hit, score=hit.score * by, why=replace(hit.why, learned=by)) for hit, by in pairs]
        return tuple(sorted(ranked, key=_place)[: question.k])

    def _search(self, question: Question) -> tuple[Hit, ...]:
        pool = max(POOL, 2 * question.k)
        while True:
            parts, full = self._candidates(question, pool)
            hits = self._judge(question, parts)
            # Filters by time are applied to candidates: where they leave too few, more are asked for.
            if len(hits) >= question.k or not full or pool >= WIDEST:
                return hits
            pool *= 4

    def near(self, text: str, namespace: str = DEFAULT_NAMESPACE, k: int = 24) -> tuple[Memory, ...]:
        """The most similar memories, whoever wrote them: what a new one may contradict.

        So many that a claim repeated by many does not hide the one that it is against.
        """
        question = Question(text=text, namespace=namespace, k=k)
        _check(question)
        parts, _ = self._candidates(question, max(POOL, k))
        return self._store.get_many(rank.order(parts)[:k])

    def _candidates(self, question: Question, pool: int) -> tuple[dict[int, Parts], bool]:
        """Fused scores by number, and whether a search gave as many as it was asked for."""
        text = question.text[:MOST_QUERY]
        vector = checked(self._embedder, [text])[0]
        words = _scores(*self._words.search(question.namespace, text, pool))
        likeness: dict[int, float] = {}
        if vector.any():
            likeness = _scores(*self._vectors.search(question.namespace, vector, pool, exact=question.exact))
        if self._elder is not None:
            likeness = self._elder.search(question.namespace, text, pool) | likeness
        full = max(len(words), len(likeness)) >= pool
        with self._store.reading() as connection:
            if vector.any():
                self._complete(connection, vector, words.keys() - likeness.keys(), likeness)
            parts = rank.fuse(words, likeness, wording.share(text, words.values()))
            if self._weights.turns:
                parts = rank.lend(parts, _turns(connection, question.namespace, rank.order(parts)), self._weights)
        return self._linked(question.namespace, parts), full

    def _linked(self, namespace: str, parts: dict[int, Parts]) -> dict[int, Parts]:
        """With the memories that name what the best of these name, where that is weighed at all."""
        if self._graph is None or not self._weights.graph:
            return parts
        self._graph.follow()
        seeds = {num: parts[num].score for num in rank.order(parts)[:SEEDS]}
        links = self._graph.links(namespace, seeds)
        return rank.link(parts, ((link.num, link.weight, link.names) for link in links), self._weights)

    def _complete(
        self,
        connection: Connection,
        vector: Vectors,
        missing: set[int],
        likeness: dict[int, float],
    ) -> None:
        """What only the words have found gets its true cosine, from the stored vector."""
        own = [row for row in vector_rows.embedders(connection) if row.digest == self._embedder.digest]
        if own and missing:
            nums, halves = vector_rows.get(connection, own[0], sorted(missing))
            likeness |= _scores(np.array(nums, np.int64), halves.astype(np.float32) @ vector)

    def _judge(self, question: Question, parts: dict[int, Parts]) -> tuple[Hit, ...]:
        """Trust is at most 1, so whoever comes later in the order cannot pass a score above their relevance."""
        ranked = rank.order(parts)
        hits: list[Hit] = []
        for start in range(0, len(ranked), BATCH):
            hits.sort(key=_place)
            enough = len(hits) >= question.k
            if enough and hits[question.k - 1].score > parts[ranked[start]].score:
                break
            memories = [
                memory
                for memory in self._store.get_many(ranked[start : start + BATCH])
                if _fits(memory, question, self._store.clock())
            ]
            for memory, trust in zip(memories, self._trust.weights(memories), strict=True):
                if trust > 0:
                    hits.append(_hit(memory, parts[memory.num], trust))
        return tuple(sorted(hits, key=_place)[: question.k])


def candidate(hit: Hit) -> Candidate:
    """A hit as it is learned from: with the score that it had before anything was learned."""
    why = hit.why
    parts = Parts(words=why.words, vector=why.vector, cosine=why.cosine, turns=why.turns, score=why.relevance)
    return Candidate(hit.memory, why.relevance * hit.trust, parts)


def _check(question: Question) -> None:
    if not question.text.strip("\0 \t\r\n"):
        raise InvalidMemory("the question is empty", "give at least one word")
    if any("\ud800" <= char <= "\udfff" for char in question.text):
        raise InvalidMemory("the question is broken Unicode: a lone surrogate", "decode its bytes again")
    if not 1 <= question.k <= MOST_HITS:
        raise InvalidMemory(f"{question.k} hits cannot be given", f"ask for 1 to {MOST_HITS}")
    for label, moment in (("since", question.since), ("until", question.until), ("at", question.at)):
        if moment is not None and not math.isfinite(moment):
            raise InvalidMemory(f"{label} is not a finite number", "give Unix seconds, or leave it out")


def _scores(nums: Numbers, scores: Scores) -> dict[int, float]:
    return dict(zip(nums.tolist(), scores.tolist(), strict=True))


def _turns(connection: Connection, namespace: str, ranked: Sequence[int]) -> list[Turn]:
    """The places of all candidates, and of the turns beside the best of them."""
    found: dict[int, Turn] = {}
    if connection.execute("SELECT 1 FROM memory WHERE episode IS NOT NULL LIMIT 1").fetchone() is None:
        return []
    for start in range(0, len(ranked), 500):
        part = ranked[start : start + 500]
        marks = ",".join("?" * len(part))
        sql = f"SELECT num, episode, position FROM memory WHERE num IN ({marks}) AND position IS NOT NULL"
        for num, episode, position in connection.execute(sql + " AND episode IS NOT NULL", tuple(part)):
            found[num] = Turn(num, episode, position)
    beside = (
        "SELECT num, episode, position FROM memory WHERE episode = ? AND position IN (?, ?) "
        "AND namespace = (SELECT id FROM namespace WHERE name = ?)"
    )
    for num in [num for num in ranked if num in found][:LENDERS]:
        turn = found[num]
        values = (turn.episode, turn.position - 1, turn.position + 1, namespace)
        for other in connection.execute(beside, values):
            found.setdefault(other[0], Turn(*other))
    return [found[num] for num in sorted(found)]


def _fits(memory: Memory, question: Question, now: float) -> bool:
    if memory.namespace != question.namespace or memory.state == "quarantined":
        return False
    if question.since is not None and memory.time < question.since:
        return False
    if question.until is not None and memory.time >= question.until:
        return False
    if question.past:
        return True
    at = now if question.at is None else question.at
    began = memory.valid_from is None or memory.valid_from <= at
    over = memory.valid_to is not None and memory.valid_to <= at
    return began and not over and memory.state != "superseded"


def _hit(memory: Memory, parts: Parts, trust: float) -> Hit:
    notes: list[str] = []
    if memory.state != "kept":
        notes.append(memory.state)
    if memory.taint in ("tool", "web", "file"):
        notes.append(f"from {'the ' if memory.taint == 'web' else 'a '}{memory.taint}")
    if trust < 1:
        notes.append(f"trust {trust:.2f}")
    if parts.names:
        notes.append(f"names {', '.join(parts.names[:3])} as other hits do")
    why = Why(
        words=parts.words,
        vector=parts.vector,
        turns=parts.turns,
        graph=parts.graph,
        share=parts.share,
        cosine=parts.cosine,
        relevance=parts.score,
        notes=tuple(notes),
    )
    return Hit(memory=memory, score=parts.score * trust, trust=trust, why=why)


def _place(hit: Hit) -> tuple[float, float, int]:
    """Of equals the later said, then the one written first."""
    return -round(hit.score, 9), -hit.memory.time, hit.memory.num
