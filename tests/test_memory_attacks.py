"""Five attacks by another hand against the memory as it is used: the write gate, judgements, and hybrid recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from memory_store.embed import StaticEmbedder
from memory_store.errors import InvalidMemory, WriteRefused
from memory_store.recall import Question, Recall
from memory_store.records import Author, NewMemory
from memory_store.store import Store
from memory_store.trust import DAY, Trust
from tests.attacks import ASSAULTS, Fact, chronicle, facts
from tests.intruders import INTRUSIONS, Forgery
from tests.poisoning import Act

EMBEDDER = StaticEmbedder()
FACTS = 40
SHOWN = 5
WARS = {name: chronicle(1, attack, facts(1, FACTS)) for name, attack in (ASSAULTS | INTRUSIONS).items()}


@dataclass(frozen=True)
class Outcome:
    hostile_share: float
    honest_recall: float


class Unguarded(Trust):
    """Everybody is believed."""

    def weights(self, memories: Sequence[object]) -> tuple[float, ...]:
        return (1.0,) * len(memories)


def outcome(path: Path, acts_in_order: Sequence[Act], known: Sequence[Fact], *, guarded: bool = True) -> Outcome:
    now = 0.0
    store = Store(path, embedder=EMBEDDER, clock=lambda: now)
    trust = Trust(store) if guarded else Unguarded(store)
    recall = Recall(store, trust)
    ids: dict[str, str] = {}
    acts: dict[str, Act] = {}
    for act in acts_in_order:
        now = act.day * DAY
        author = Author(kind=act.kind, name=act.by)
        if act.verb != "write":
            if act.tag in ids:
                trust.judge(store.get(ids[act.tag]), author, "confirmed" if act.verb == "confirm" else "refuted")
            continue
        new = NewMemory(text=act.text, author=author, **(act.dressed if isinstance(act, Forgery) else {}))  # type: ignore[arg-type]
        try:
            added = trust.remember(new, recall.near(act.text)) if guarded else store.add(new)
        except (WriteRefused, InvalidMemory):
            continue
        ids[act.tag] = added.id
        acts.setdefault(added.id, act)
    answers = [recall.search(Question(text=fact.question, k=SHOWN)) for fact in known]
    store.close()
    hostile = sum(acts[hit.memory.id].hostile for hits in answers for hit in hits)
    right = sum(
        any(fact.truth in hit.memory.text and not acts[hit.memory.id].hostile for hit in hits)
        for fact, hits in zip(known, answers, strict=True)
    )
    return Outcome(hostile / sum(map(len, answers)), right / len(known))


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same world without an attack and without any trust: what the defence must not cost."""
    path = tmp_path_factory.mktemp("peace") / "memory.db"
    return outcome(path, chronicle(1, None, facts(1, FACTS)), facts(1, FACTS), guarded=False)


@pytest.mark.parametrize("assault", WARS)
def test_an_assault_is_hardly_ever_shown_and_hides_nothing(tmp_path: Path, assault: str, peace: Outcome) -> None:
    war = outcome(tmp_path / "war.db", WARS[assault], facts(1, FACTS))
    assert peace.honest_recall > 0.9
    assert war.hostile_share < 0.05
    assert war.honest_recall > peace.honest_recall - 0.02
