"""The answer cache on the disk and in memory: one SQLite file, read once, and the vectors of each context together.

A context, a question's vector and its canonical form enter, the answer that fits leaves. Knows nothing of requests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlite_utils import Database

from localai.same_question import Category
from localai.sqlite_file import open_file, translated

_NAME = "answers"
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """One answer. `context`: digest of all that must be equal; `form`: of the question's canonical form, which is not
    kept itself. `memories`: (id, source, trust) of what the model was shown. `made`: Unix seconds.
    """

    context: bytes
    category: Category
    form: bytes
    vector: Vector
    epoch: int = 0
    text: str = ""
    reasoning: str = ""
    memories: tuple[tuple[str, str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    made: float = 0.0


def m001_answers(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
        CREATE TABLE answers (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            context BLOB NOT NULL,
            category TEXT NOT NULL,
            form BLOB NOT NULL,
            vector BLOB NOT NULL,
            text TEXT NOT NULL,
            reasoning TEXT NOT NULL,
            memories TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            made REAL NOT NULL
        );
        """
    )


class AnswerFile:
    """For one thread at a time. Raises ConfigError where the file cannot be used."""

    def __init__(self, path: Path, embedder: str) -> None:
        """Answers whose vectors are another embedder's are dropped."""
        self._db = open_file(path, _NAME, (m001_answers,))
        self._groups: dict[bytes, dict[int, Kept]] = {}
        self._stacks: dict[bytes, tuple[list[int], Vector]] = {}
        self._places: dict[Category, dict[int, bytes]] = {}
        with translated(_NAME):
            self._db.execute("PRAGMA secure_delete = ON").fetchall()
            row = self._db.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
            if row is None or row[0] != embedder:
                with self._db.conn:
                    self._db.execute("DELETE FROM answers")
                    self._db.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", (embedder,))
            for number, *values in self._db.execute("SELECT * FROM answers ORDER BY id").fetchall():
                self._remember(number, _kept(values))

    def nearest(
        self, context: bytes, vector: Vector, likeness: float, form: bytes, since: float
    ) -> tuple[Kept, float] | None:
        """The most alike of this context that asks the same and was made after `since`, with its cosine."""
        group = self._groups.get(context)
        if not group:
            return None
        numbers, stack = self._stacked(context)
        # Not `@`: threads of BLAS wait for each other where others compute, for longer than this takes.
        cosines = np.einsum("ij,j->i", stack, vector)
        for place in np.flatnonzero(cosines >= likeness)[np.argsort(-cosines[cosines >= likeness], kind="stable")]:
            kept = group[numbers[place]]
            if kept.form == form and kept.made >= since:
                return kept, float(cosines[place])
        return None

    def put(self, kept: Kept, limit: int) -> None:
        """Keep one, in the place of the same question's; the oldest of its category go where they are too many."""
        same = [n for n, other in self._groups.get(kept.context, {}).items() if other.form == kept.form]
        held = self._places.get(kept.category, {})
        gone = same + [number for number in held if number not in same][: max(0, len(held) - len(same) + 1 - limit)]
        values = (kept.context, kept.category, kept.form, kept.vector.tobytes(), kept.text, kept.reasoning)
        figures = (json.dumps(kept.memories), kept.prompt_tokens, kept.completion_tokens, kept.made)
        columns = "context, category, form, vector, text, reasoning, memories, prompt_tokens, completion_tokens, made"
        with translated(_NAME), self._db.conn:
            self._db.conn.executemany("DELETE FROM answers WHERE id = ?", [(number,) for number in gone])
            sql = f"INSERT INTO answers ({columns}) VALUES ({','.join('?' * 10)})"
            number = self._db.execute(sql, (*values, *figures)).lastrowid
        for other in gone:
            self._drop(other)
        assert number is not None
        self._remember(number, kept)
        # Now, while nobody waits for it.
        self._stacked(kept.context)

    def clear(self) -> int:
        """Remove all, and write the file anew without them."""
        with translated(_NAME):
            with self._db.conn:
                count = int(self._db.execute("DELETE FROM answers").rowcount)
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._groups, self._stacks, self._places = {}, {}, {}
        return count

    def close(self) -> None:
        self._db.close()

    def _stacked(self, context: bytes) -> tuple[list[int], Vector]:
        if context not in self._stacks:
            group = self._groups[context]
            self._stacks[context] = list(group), np.stack([kept.vector for kept in group.values()])
        return self._stacks[context]

    def _remember(self, number: int, kept: Kept) -> None:
        self._groups.setdefault(kept.context, {})[number] = kept
        self._places.setdefault(kept.category, {})[number] = kept.context
        self._stacks.pop(kept.context, None)

    def _drop(self, number: int) -> None:
        for held in self._places.values():
            context = held.pop(number, None)
            if context is not None:
                self._groups[context].pop(number)
                self._stacks.pop(context, None)
                if not self._groups[context]:
                    del self._groups[context]


def _kept(values: list[Any]) -> Kept:
    context, category, form, vector, text, reasoning, memories, *figures = values
    prompt, completion, made = figures
    return Kept(
        context=context,
        category=category,
        form=form,
        vector=np.frombuffer(vector, np.float32),
        text=text,
        reasoning=reasoning,
        memories=tuple(tuple(used) for used in json.loads(memories)),
        prompt_tokens=prompt,
        completion_tokens=completion,
        made=made,
    )
