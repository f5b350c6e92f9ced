"""The report of one run as data: made of a journal, written as JSON and CSV, read back for comparing and sharing."""

from __future__ import annotations

import csv
import io
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from localai.bench.journal import Journal
from localai.bench.rows import Idle, Row
from localai.bench.summary import ENOUGH, Oracle, Pair, Result, oracle, pairs, results, uneven
from localai.errors import BadRequest

FORMAT = 1
_DRIFT = 0.05


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one run; `results` best first. No prompts and no answers are in it."""

    format: int
    kind: str
    started: float
    suite: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    sensors: list[dict[str, Any]]
    no_sensor: list[str]
    configurations: list[dict[str, Any]]
    idle: list[Idle]
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    pairs: tuple[Pair, ...]
    oracle: Oracle | None
    rows: tuple[Row, ...]


_KIND = "localai bench"


def build(journal: Journal) -> Report:
    """The report of what the journal holds so far."""
    head, rows = journal.head, journal.rows
    found = results(rows, journal.blocks)
    around = head.surroundings
    return Report(
        format=FORMAT,
        kind=_KIND,
        started=head.started,
        suite=head.suite,
        device=around["device"],
        versions=around["versions"],
        sensors=around["sensors"],
        no_sensor=around["no_sensor"],
        configurations=head.configurations,
        idle=journal.idles,
        notes=_notes(journal, found),
        results=found,
        pairs=pairs(rows, found),
        oracle=oracle(rows, found),
        rows=tuple(rows),
    )


def as_json(report: Report) -> dict[str, Any]:
    """For `--json` and files."""
    shown: dict[str, Any] = msgspec.to_builtins(report)
    return shown


def read(path: Path) -> Report:
    """A report written earlier. Raises BadRequest for a file that is none."""
    hint = "give a file that `localai bench --out FOLDER` wrote"
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise BadRequest(f"{path.name} cannot be read: {error.strerror}", hint) from error
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{path.name} is no report of a benchmark: {error}", hint) from error
    if report.kind != _KIND or report.format != FORMAT:
        raise BadRequest(f"{path.name} is a report of another kind or format", hint)
    return report


_COLUMNS = ("accuracy", "ipj", "per_kj", "ipw", "joules", "joules_per_token", "joules_per_correct")
_PLAIN = (
    *("questions", "failed", "cut", "quality", "coverage", "idle_joules", "prediction_error", "seconds", "ttft_ms"),
    *("decode_tps", "prompt_tokens", "cached_tokens", "completion_tokens", "threads", "peak_bytes", "foreign_cores"),
)


def as_csv(report: Report) -> str:
    """One line per configuration; every estimate with its bounds; then what the figures hold for."""
    digests = {c["model"]: c["digest"] for c in report.configurations}
    out = io.StringIO()
    writer = csv.writer(out)
    bounds = [f"{name}{end}" for name in _COLUMNS for end in ("", "_low", "_high")]
    constant = {
        "suite": report.suite["name"],
        "suite_digest": report.suite["digest"],
        "cpu": report.device["cpu"],
        "sensors": " ".join(sensor["id"] for sensor in report.sensors),
        "versions": " ".join(f"{name}={version}" for name, version in report.versions.items()),
    }
    writer.writerow(["rank", "config", "scope", *_PLAIN, *bounds, "model_digest", *constant])
    for result in report.results:
        estimates = [getattr(result, name) for name in _COLUMNS]
        figures = [v for e in estimates for v in ((e.value, e.low, e.high) if e else (None, None, None))]
        digest = digests.get(result.config.split(" ")[0], "")
        writer.writerow(
            [result.rank, result.config, " ".join(result.scope)]
            + [getattr(result, name) for name in _PLAIN]
            + [*figures, digest, *constant.values()]
        )
    return out.getvalue()


def _notes(journal: Journal, found: tuple[Result, ...]) -> tuple[str, ...]:
    """What a reader must know to believe the figures, worst first."""
    notes = []
    qualities = {result.quality for result in found}
    if "modelled" in qualities:
        notes.append("joules are modelled from CPU time and bytes moved: for comparing on this machine, no reading")
    if "none" in qualities:
        reasons = {result.why_missing for result in found if result.quality == "none"}
        notes.append(f"no joules for some: {'; '.join(sorted(reasons))}")
    if len(qualities) > 1:
        notes.append("figures of different quality are ranked apart")
    partial = [result for result in found if 0 < result.coverage < 1]
    notes += [f"{r.config}: joules of {r.coverage:.0%} of its questions: {r.why_missing}" for r in partial]
    notes += [f"{r.config}: {r.failed} questions failed and count as wrong" for r in found if r.failed]
    few = min((result.questions for result in found), default=ENOUGH)
    if few < ENOUGH and len(found) > 1:
        notes.append(f"{few} questions tell no configurations apart: {ENOUGH} are needed")
    if any(uneven(a, b) for a, b in combinations(found, 2)):
        counts = ", ".join(f"{result.config} on {result.threads}" for result in found)
        notes.append(f"engines were left different numbers of threads, and are not told apart: {counts}")
    notes += [f"{r.config}: its rate had not settled when a block began" for r in found if not r.steady]
    busy = [r.foreign_cores for r in found if r.foreign_cores is not None]
    if busy and max(busy) > 0.1:
        notes.append(f"other programs kept up to {max(busy):.1f} cores busy: times are not this machine's best")
    before = {idle.when: idle.watts for idle in journal.idles}
    for sensor, watts in before.get("before", {}).items():
        later = before.get("after", {}).get(sensor)
        if watts and later and abs(later / watts - 1) > _DRIFT:
            notes.append(f"{sensor}: idle went from {watts:.2f} to {later:.2f} W during the run")
    return (*notes, *journal.head.suite.get("notes", ()))
