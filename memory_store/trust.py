"""Who is believed: evidence for and against each source, what a new memory is let in as, and how much a memory weighs.

Judgements, new memories and their neighbours enter; states, standings and weights leave. Evidence is a Beta
distribution in real numbers, and its lower bound counts: the new are not trusted yet. Being retrieved is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from memory_store import log, rows
from memory_store.contradiction import contradicts
from memory_store.dbfile import Connection
from memory_store.disguise import looks_like, orders_about
from memory_store.errors import WriteRefused
from memory_store.records import Added, Author, AuthorKind, Memory, NewMemory, State
from memory_store.store import Store

Verdict = Literal["confirmed", "refuted", "contradicted"]

DAY = 86_400.0
BOUND = 1.645  # standard deviations below the mean: 5 % of a normal distribution lie lower


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every number of the defence, with its reason.

    `priors`: (for, against) before any evidence. `most_for`: praise cannot be saved up without end. Half-lives in days:
    blame is forgotten more slowly than praise. `daily_praise`, `daily_conflict`: what one day can change. `margin`: a
    claim does not replace a known one without clearly better standing. `newcomer_days`, `newcomer_daily`: what agents
    first seen lately may write together in a day; `unproven_daily`: what one without standing may. `floor`: who is
    unproven but not blamed is shown almost as well as others, else praise of one topic would hide another.
    `recent_days`, `past_counts`: who is blamed lately is judged by that time, the record before it counting as so many
    observations only: saved-up praise buys no lies.
    """

    priors: dict[AuthorKind, tuple[float, float]] = field(
        default_factory=lambda: {"person": (40, 1), "file": (2, 2), "agent": (2, 2), "tool": (1, 2), "web": (1, 3)}
    )
    most_for: float = 12.0
    praise_half_life: float = 120.0
    blame_half_life: float = 240.0
    person_confirms: float = 1.0
    person_refutes: float = 3.0
    conflict: float = 1.0
    daily_praise: float = 3.0
    daily_conflict: float = 4.0
    witness: float = 0.3
    margin: float = 0.25
    proven: float = 0.4
    quarantine_below: float = 0.06
    refuse_below: float = 0.01
    newcomer_days: float = 7.0
    newcomer_daily: int = 20
    unproven_daily: int = 30
    recent_days: float = 14.0
    past_counts: float = 4.0
    floor: float = 0.9
    contested: float = 0.3
    tainted_most: float = 0.85


@dataclass(frozen=True, slots=True)
class Standing:
    """The evidence on one source now, decayed. `lower` is the bound below which trust lies with a chance of 5 %."""

    confirmed: float
    refuted: float

    @property
    def mean(self) -> float:
        return self.confirmed / (self.confirmed + self.refuted)

    @property
    def lower(self) -> float:
        total = self.confirmed + self.refuted
        spread = math.sqrt(self.confirmed * self.refuted / (total * total * (total + 1)))
        return max(0.0, self.mean - BOUND * spread)


class Trust:
    """Trust over one Store. Holds no state of its own: everything is in the file, and decays as it is read."""

    def __init__(self, store: Store, policy: Policy | None = None) -> None:
        self._store = store
        self.policy = Policy() if policy is None else policy

    def remember(self, new: NewMemory, neighbours: Sequence[Memory] = ()) -> Added:
        """Add through the write gate, and settle contradictions with `neighbours` (the most similar memories).

        Raises WriteRefused where the source has lost its standing, and what Store.add raises.
        """
        state, replaced = self.gate(new), list[Memory]()
        rivals = [memory for memory in neighbours if memory.state == "kept" and contradicts(new.text, memory.text)]
        if state == "kept" and rivals:
            state, replaced = self._settle(new, rivals)
        back = list[int]()

        def settle(connection: Connection, added: Sequence[Added]) -> None:
            now, again = self._store.clock(), [one for one in added if _said_again(connection, one, new)]
            back[:] = [one.num for one in again if one.state == "superseded" and state == "kept"]
            rows.set_states(connection, [memory.num for memory in replaced], "superseded", now)
            rows.set_states(connection, back, "kept", now)
            for one in again:
                rows.add_tags(connection, one.id, new.tags, now)

        added = self._store.add_many((new,), state=state, more=settle)[0]
        if added.created and state in ("contested", "quarantined") and rivals:
            self._blame(new.author, added.num, rivals[0])
        outdone = tuple(memory.id for memory in replaced)
        return replace(added, state="kept" if back else added.state, replaced=outdone)

    def gate(self, new: NewMemory) -> State:
        """What a new memory is let in as. A quarantined one is not recalled before a person confirms it."""
        author, policy = new.author, self.policy
        if author.kind == "person":
            return "kept"
        with self._store.reading() as connection:
            standing = self._standing(connection, author)
            lower, blamed = standing.lower, standing.refuted > policy.priors[author.kind][1]
            if blamed and lower < policy.refuse_below:
                hint = "a person can confirm some of its memories, or forget them"
                raise WriteRefused(f"{author.kind} {author.name!r} has lost too much trust to write", hint)
            if (blamed and lower < policy.quarantine_below) or orders_about(new.text):
                return "quarantined"
            if author.kind != "agent":
                return "kept"
            known = [row.author for row in rows.sources(connection) if row.author.kind in ("agent", "person")]
            masked = any(looks_like(author.name, other.name) for other in known if other != author)
            return "quarantined" if masked or self._too_many(connection, author, lower) else "kept"

    def judge(self, memory: Memory, judge: Author, verdict: Verdict) -> bool:
        """Record what `judge` thinks of a memory; True where it counted. Nobody gains trust by what is their own.

        A person's word counts in full. Anyone else's counts as far as they are trusted themselves, where that is
        more than the author of the memory is. What was set aside or replaced is recalled again once a person confirms
        it, however much praise its author had that day.
        """
        lets_in = judge.kind == "person" and verdict == "confirmed" and memory.state != "kept"
        if lets_in:
            self._store.set_state(memory.id, "kept")
        if judge == memory.author:
            return lets_in
        with self._store.reading() as connection:
            weight = self._weight_of_verdict(connection, memory, judge, verdict)
        if weight > 0:
            self._record(memory.author, memory.num, judge, verdict, weight)
        return lets_in or weight > 0

    def standing(self, author: Author) -> Standing:
        with self._store.reading() as connection:
            return self._standing(connection, author)

    def weights(self, memories: Sequence[Memory]) -> tuple[float, ...]:
        """0 to 1 for each: what relevance is multiplied by. Web and tool text never weighs in full."""
        with self._store.reading() as connection:
            authors = {memory.author for memory in memories}
            weights = {author: self._weight_of(author, self._standing(connection, author)) for author in authors}
            verdicts = _verdicts(connection, [memory.num for memory in memories])
            return tuple(
                self._weight(memory, weights[memory.author], verdicts.get(memory.num, set())) for memory in memories
            )

    def _weight_of(self, author: Author, standing: Standing) -> float:
        """Of an author's text that nothing is held against."""
        confirmed, refuted = self.policy.priors[author.kind]
        fallen = min(1.0, standing.mean / (confirmed / (confirmed + refuted)))
        return fallen * (self.policy.floor + (1 - self.policy.floor) * standing.lower)

    def _weight(self, memory: Memory, weight: float, verdicts: set[str]) -> float:
        policy = self.policy
        if memory.state == "quarantined":
            return 0.0
        if "refuted" in verdicts:
            return weight * policy.contested**2
        if memory.taint in ("tool", "web"):
            weight = min(weight, policy.tainted_most)
        elif "confirmed" in verdicts:
            weight = 1.0
        return weight * policy.contested if memory.state in ("contested", "superseded") else weight

    def _settle(self, new: NewMemory, rivals: Sequence[Memory]) -> tuple[State, list[Memory]]:
        """A person's word, and an author's own change of mind, replace; other claims wait until better known."""
        others = [memory for memory in rivals if memory.author != new.author]
        with self._store.reading() as connection:
            against = self._support(connection, {memory.author for memory in others})
            own = self._standing(connection, new.author).lower
        if new.author.kind != "person" and others and own <= against + self.policy.margin:
            return "contested", []
        return "kept", [memory for memory in rivals if new.author.kind == "person" or memory.author == new.author]

    def _support(self, connection: Connection, authors: set[Author]) -> float:
        """How likely one of them is right; those without any standing of their own add nothing, however many."""
        wrong = 1.0
        for author in authors:
            lower = self._standing(connection, author).lower
            wrong *= 1 - lower if lower >= self.policy.witness else 1.0
        return 1 - wrong

    def _blame(self, author: Author, num: int, rival: Memory) -> None:
        with self._store.reading() as connection:
            spent = self._spent(connection, author, "contradicted")
        weight = min(self.policy.conflict, self.policy.daily_conflict - spent)
        if weight > 0 and rival.author != author:
            self._record(author, num, rival.author, "contradicted", weight)

    def _weight_of_verdict(self, connection: Connection, memory: Memory, judge: Author, verdict: Verdict) -> float:
        policy = self.policy
        if judge.kind == "person":
            weight = policy.person_confirms if verdict == "confirmed" else policy.person_refutes
        else:
            own = self._standing(connection, judge).lower
            weight = own if own >= policy.proven and own > self._standing(connection, memory.author).lower else 0.0
        limit = policy.daily_praise if verdict == "confirmed" else policy.daily_conflict
        if verdict == "confirmed" or judge.kind != "person":
            weight = min(weight, limit - self._spent(connection, memory.author, verdict))
        return weight

    def _record(self, author: Author, num: int, judge: Author, verdict: Verdict, weight: float) -> None:
        now, source, by = self._store.clock(), self._store.source(author), self._store.source(judge)

        def work(connection: Connection) -> None:
            sql = "INSERT OR IGNORE INTO evidence (source, judge, num, verdict, weight, time) VALUES (?, ?, ?, ?, ?, ?)"
            if connection.execute(sql, (source, by, num, verdict, weight, now)).rowcount:
                log.append(connection, "trust", source, now)

        self._store.write(work)

    def _standing(self, connection: Connection, author: Author) -> Standing:
        """By all evidence; or by that of the last days where these are worse than the record would let expect."""
        sql = (
            "SELECT e.verdict, e.weight, e.time FROM evidence e JOIN source s ON s.id = e.source "
            "WHERE s.kind = ? AND s.name = ? ORDER BY e.id"
        )
        # A clock that was set back makes old evidence fresh, never stronger.
        now = self._store.clock()
        evidence = [
            (verdict, weight, max(0.0, now - time) / DAY)
            for verdict, weight, time in connection.execute(sql, (author.kind, author.name))
        ]
        prior = Standing(*self.policy.priors[author.kind])
        recent = [item for item in evidence if item[2] < self.policy.recent_days]
        whole = self._sum(prior, evidence)
        if all(verdict == "confirmed" for verdict, _, _ in recent):
            return whole
        past = self._sum(prior, [item for item in evidence if item[2] >= self.policy.recent_days])
        count = min(self.policy.past_counts, past.confirmed + past.refuted)
        lately = self._sum(Standing(count * past.mean, count * (1 - past.mean)), recent)
        return min(whole, lately, key=lambda standing: standing.lower)

    def _sum(self, prior: Standing, evidence: Sequence[tuple[str, float, float]]) -> Standing:
        praise, blame = 0.0, 0.0
        for verdict, weight, days in evidence:
            if verdict == "confirmed":
                praise += weight * 0.5 ** (days / self.policy.praise_half_life)
            else:
                blame += weight * 0.5 ** (days / self.policy.blame_half_life)
        return Standing(prior.confirmed + min(praise, self.policy.most_for), prior.refuted + blame)

    def _spent(self, connection: Connection, author: Author, verdict: Verdict) -> float:
        sql = (
            "SELECT coalesce(sum(e.weight), 0) FROM evidence e JOIN source s ON s.id = e.source "
            "WHERE s.kind = ? AND s.name = ? AND e.verdict = ? AND e.time > ? AND e.time < ?"
        )
        # Where the clock was set back, what was noted far ahead of it is not of this day.
        now = self._store.clock()
        values = (author.kind, author.name, verdict, now - DAY, now + DAY)
        return float(connection.execute(sql, values).fetchone()[0])

    def _too_many(self, connection: Connection, author: Author, lower: float) -> bool:
        """Has this agent, or have all new ones together, written their share of the last day?"""
        now, policy = self._store.clock(), self.policy
        recent = (
            "SELECT count(*) FROM memory m JOIN source s ON s.id = m.source "
            "WHERE s.kind = 'agent' AND m.recorded > ? AND m.recorded < ? AND m.state <> 'quarantined' AND "
        )
        today = (now - DAY, now + DAY)
        own = connection.execute(recent + "s.name = ?", (*today, author.name)).fetchone()[0]
        if lower < policy.proven and own >= policy.unproven_daily:
            return True
        found = "SELECT first FROM source WHERE kind = 'agent' AND name = ?"
        first = connection.execute(found, (author.name,)).fetchone()
        newcomers_since = now - policy.newcomer_days * DAY
        if first is not None and first[0] <= newcomers_since:
            return False
        together = connection.execute(recent + "s.first > ?", (*today, newcomers_since)).fetchone()[0]
        return bool(together >= policy.newcomer_daily)


def _said_again(connection: Connection, added: Added, new: NewMemory) -> bool:
    """Not so where somebody echoes a derived fact."""
    return not added.created and rows.one(connection, added.id).author == new.author


def _verdicts(connection: Connection, nums: Sequence[int]) -> dict[int, set[str]]:
    """What persons have said of these memories."""
    found: dict[int, set[str]] = {}
    for start in range(0, len(nums), 500):
        part = tuple(nums[start : start + 500])
        marks = ",".join("?" * len(part))
        sql = f"SELECT e.num, e.verdict FROM evidence e JOIN source s ON s.id = e.judge WHERE e.num IN ({marks})"
        for num, verdict in connection.execute(sql + " AND s.kind = 'person'", part):
            found.setdefault(num, set()).add(verdict)
    return found
