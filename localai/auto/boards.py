"""Which abilities may be compared: finished runs of `localai bench` in the home enter, one Board leaves.

Only models that are still the same bytes count, only one suite, and only one quality of joules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localai.auto.abilities import Ability, ability
from localai.bench import journal
from localai.bench.configurations import Configuration
from localai.bench.rows import End, Head

_BEST = ("measured", "measured_partial", "modelled", "none")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run: `suite` tells which runs asked questions of the same kinds and levels."""

    suite: str
    started: float
    abilities: tuple[Ability, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """Abilities that may be compared with each other, at most one per model and backend; `suite` names the questions.

    `left_out` are models of other runs, each with the reason.
    """

    suite: str
    abilities: tuple[Ability, ...]
    left_out: tuple[str, ...] = ()

    @property
    def models(self) -> set[str]:
        return {each.model for each in self.abilities}


class Runs:
    """The finished runs of one home, read again where files have changed. Belongs to one thread at a time."""

    def __init__(self, home: Path) -> None:
        self._folder = journal.folder(home)
        self._known: dict[Path, tuple[tuple[int, int], Run | None]] = {}

    def all(self) -> list[Run]:
        """Newest first."""
        found: dict[Path, tuple[tuple[int, int], Run | None]] = {}
        for path in self._folder.glob("*.journal.jsonl"):
            try:
                state = path.stat()
                stamp = (state.st_mtime_ns, state.st_size)
                old = self._known.get(path)
                found[path] = old if old is not None and old[0] == stamp else (stamp, read(path))
            except FileNotFoundError:
                continue
        self._known = found
        return sorted((run for _, run in found.values() if run is not None), key=lambda run: -run.started)


def read(path: Path) -> Run | None:
    """The run that a journal tells of; None for one that is not finished."""
    entries = journal.read(path)
    if not entries or not isinstance(entries[0], Head) or not isinstance(entries[-1], End):
        return None
    head, rows = entries[0], journal.rows_of(entries)
    found = []
    for described in head.configurations:
        config = msgspec.convert(described, Configuration)
        made = ability(config, [row for row in rows if row.config == config.key])
        found += [made] if made is not None else []
    # Generated suites of one name ask alike, whatever their seed; files are told apart by where they come from.
    return Run(f"{head.suite['name']} ({head.suite['source']})", head.started, tuple(found))


def board(runs: Sequence[Run], digest_of: Callable[[str], str | None]) -> Board:
    """The best-filled board of `runs`, newest first. `digest_of` tells what a model here is now, None for none."""
    boards = [_of_suite(suite, runs, digest_of) for suite in dict.fromkeys(run.suite for run in runs)]
    if not boards:
        return Board("", ())
    best = max(boards, key=lambda b: (len(b.models), len(b.abilities)))
    elsewhere = sorted({name for other in boards for name in other.models} - best.models)
    return Board(
        best.suite, best.abilities, (*best.left_out, *(f"{name}: asked other questions" for name in elsewhere))
    )


def _of_suite(suite: str, runs: Sequence[Run], digest_of: Callable[[str], str | None]) -> Board:
    newest: dict[tuple[str, str], Ability] = {}
    for each in (each for run in runs if run.suite == suite for each in run.abilities):
        if digest_of(each.model) == each.digest:
            newest.setdefault((each.model, each.backend), each)
    groups: dict[tuple[str, tuple[str, ...]], list[Ability]] = {}
    for each in newest.values():
        groups.setdefault((each.quality, each.scope), []).append(each)
    if not groups:
        return Board(suite, ())
    # Modelled joules are never ranked against measured ones: one kind for all.
    kept = max(groups, key=lambda kind: (len({each.model for each in groups[kind]}), -_BEST.index(kind[0])))
    own = {each.model for each in groups[kept]}
    others = {each.model for kind, group in groups.items() if kind != kept for each in group} - own
    left_out = tuple(f"{name}: its joules are of another kind" for name in sorted(others))
    return Board(suite, tuple(groups[kept]), left_out)
