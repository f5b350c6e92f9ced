"""What the user kept of what was found: recorded as numbers, learned from, and used where that proves better.

A question with the ids that were kept enters; the learned ranking leaves. No question and no text is stored. Nothing is
learned from having been found: only from being kept while others beside it were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, get_args

from memory_store import features, learned, preference
from memory_store.errors import InvalidMemory
from memory_store.preference import Report
from memory_store.recall import Question, Recall, candidate
from memory_store.store import Store

How = Literal["kept", "cited", "pinned"]

EVERY, SELDOM, MANY = 10, 50, 200
"""New events after which it is learned anew: at first, and from so many events on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What became of one piece of feedback: `kept` of `shown` hits; `ignored` ids were not among the hits.

    `events` counts all of them. `report` is there where it was learned anew, `used` where that ranks from now on.
    """

    kept: int
    shown: int
    ignored: tuple[str, ...]
    events: int
    used: bool
    report: Report | None = None


class Feedback:
    """Feedback over one store; `recall` finds what a question shows."""

    def __init__(self, store: Store, recall: Recall) -> None:
        self._store = store
        self._recall = recall
        self._learning = Lock()

    def record(
        self, question: Question, kept: Sequence[str], *, shown: Sequence[str] | None = None, how: How = "kept"
    ) -> Noted:
        """Note which of the memories that `question` finds were kept; `shown` are those that were seen, None all.

        Raises InvalidMemory where nothing that was found was kept.
        """
        if how not in get_args(How):
            raise InvalidMemory(f"{how!r} is no kind of feedback", f"use one of {', '.join(get_args(How))}")
        hits = self._recall.search(question)
        seen = [hit for hit in hits if shown is None or hit.memory.id in shown]
        found = [hit.memory.id for hit in seen]
        chosen = [memory_id for memory_id in dict.fromkeys(kept) if memory_id in found]
        if not chosen:
            raise InvalidMemory("none of these memories was found for this question", "give the ids of hits")
        rows = features.rows(question.text, [candidate(hit) for hit in seen], self._store.salt)
        flags = [memory_id in chosen for memory_id in found]
        nums = [hit.memory.num for hit in seen]
        events = self._store.write(
            lambda connection: learned.insert(connection, how, self._store.clock(), nums, rows, flags)
        )
        due = events >= preference.FEWEST and events % (EVERY if events <= MANY else SELDOM) == 0
        report = self.learn() if due else None
        ignored = tuple(memory_id for memory_id in dict.fromkeys(kept) if memory_id not in found)
        used = bool(self.state()["used"])
        return Noted(kept=len(chosen), shown=len(seen), ignored=ignored, events=events, used=used, report=report)

    def learn(self) -> Report:
        """Learn from all events now, and use the result exactly where it has proved better."""
        with self._learning:
            with self._store.reading() as connection:
                events = learned.events(connection)
            model, report = preference.learn(events)
            self._store.write(lambda connection: learned.save(connection, model, report, self._store.clock()))
        return report

    def state(self) -> dict[str, object]:
        """How many events there are, and what the last learning came to: version, used, report."""
        with self._store.reading() as connection:
            return learned.state(connection)
