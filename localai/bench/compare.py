"""Two reports side by side: what changed between them, and whether both rank alike. Reports in, plain data out."""

from __future__ import annotations

from itertools import combinations

import msgspec

from localai.bench.report import Report
from localai.bench.summary import Result


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of both runs. `per_kj` are correct answers per kJ, `apart` that their intervals are."""

    config: str
    accuracy: tuple[float, float]
    per_kj: tuple[float | None, float | None]
    joules: tuple[float | None, float | None]
    apart: bool
    why_not: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`reservations` speak against comparing at all. Of the pairs that paired intervals tell apart in both runs,
    `agreeing` are ranked alike, `swapped` are not."""

    reservations: tuple[str, ...]
    changes: tuple[Change, ...]
    agreeing: int
    swapped: tuple[str, ...]
    undecided: int


def compare(a: Report, b: Report) -> Comparison:
    """What the second run says against the first."""
    first, second = ({r.config: r for r in report.results} for report in (a, b))
    shared = [config for config in first if config in second]
    agreeing, undecided = 0, 0
    swapped = []
    for x, y in combinations(shared, 2):
        orders = [known.get((x, y), 0) for known in (_orders(a), _orders(b))]
        if 0 in orders:
            undecided += 1
        elif orders[0] == orders[1]:
            agreeing += 1
        else:
            swapped.append(f"{x} : {y}")
    return Comparison(
        reservations=tuple(_reservations(a, b, len(shared))),
        changes=tuple(_change(config, first[config], second[config]) for config in shared),
        agreeing=agreeing,
        swapped=tuple(swapped),
        undecided=undecided,
    )


def _orders(report: Report) -> dict[tuple[str, str], int]:
    """For two configurations in either order: 1 where the first is better per joule on the same questions, -1 where
    it is worse, 0 where the paired interval says neither."""
    found = {}
    for pair in report.pairs:
        order = 0
        if pair.separate and pair.ipj_ratio is not None:
            order = 1 if pair.ipj_ratio.value > 1 else -1
        found[pair.a, pair.b], found[pair.b, pair.a] = order, -order
    return found


def _change(config: str, x: Result, y: Result) -> Change:
    alike = x.quality == y.quality and x.scope == y.scope
    return Change(
        config=config,
        accuracy=(x.accuracy.value, y.accuracy.value),
        per_kj=(x.per_kj.value if x.per_kj else None, y.per_kj.value if y.per_kj else None),
        joules=(x.joules.value if x.joules else None, y.joules.value if y.joules else None),
        apart=bool(alike and x.ipj and y.ipj and x.ipj.apart(y.ipj)),
        why_not="" if alike else f"joules are {x.quality} in one and {y.quality} in the other",
    )


def _reservations(a: Report, b: Report, shared: int) -> list[str]:
    found = []
    if a.suite["digest"] != b.suite["digest"]:
        found.append("the questions differ")
    if a.device["fingerprint"] != b.device["fingerprint"]:
        found.append("the devices differ")
    if a.versions != b.versions:
        changed = sorted(k for k in {*a.versions, *b.versions} if a.versions.get(k) != b.versions.get(k))
        found.append(f"the versions differ: {', '.join(changed)}")
    sensors = [sorted(sensor["id"] for sensor in report.sensors) for report in (a, b)]
    if sensors[0] != sensors[1]:
        found.append("the sensors differ")
    digests = [{(c["model"], c["digest"]) for c in report.configurations} for report in (a, b)]
    if digests[0] != digests[1] and {m for m, _ in digests[0]} & {m for m, _ in digests[1]}:
        found.append("some weights differ under the same name")
    if not shared:
        found.append("no configuration is in both")
    return found


def as_text(found: Comparison) -> str:
    """For people."""
    lines = [f"mind: {reason}" for reason in found.reservations]
    for change in found.changes:
        kj = " -> ".join("-" if v is None else f"{v:.3g}" for v in change.per_kj)
        right = " -> ".join(f"{v:.0%}" for v in change.accuracy)
        verdict = change.why_not or ("separate" if change.apart else "not told apart")
        lines.append(f"{change.config}: accuracy {right}, correct answers per kJ {kj} ({verdict})")
    swapped = f", swapped: {'; '.join(found.swapped)}" if found.swapped else ""
    lines.append(
        f"pairs told apart in both runs: {found.agreeing} ranked alike{swapped}; {found.undecided} pairs undecided"
    )
    return "\n".join(lines)
