"""What answers took, summed up by day, model, app or conversation: the ledger in; J, Wh, kWh, cost and CO2 out.

Measured and modelled figures are never added: each group has a row per quality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any, Literal

By = Literal["day", "model", "app", "conversation"]
BY: tuple[By, ...] = ("day", "model", "app", "conversation")

_COLUMNS: dict[By, str] = {
    "day": "date(started, 'unixepoch', 'localtime')",
    "model": "model",
    "app": "app",
    "conversation": "conversation",
}
_JOULES_PER_KWH = 3.6e6


def query(by: By) -> str:
    """SQL with one parameter, the Unix time from which on queries count. `answers` are those whose joules are known.

    `auto_answers` are those of model `auto` that were chosen by measurements; `auto_joules` they took, checks included,
    where the largest model should have taken `auto_largest_joules` and been right `auto_accuracy_lost` more often.
    """
    return (
        f"select {_COLUMNS[by]} as key, coalesce(quality, 'none') as quality, count(*) as queries,"
        " count(joules) as answers, sum(completion_tokens) as completion_tokens, sum(joules) as joules,"
        " sum(prefill_joules) as prefill_joules, sum(decode_joules) as decode_joules,"
        " sum(idle_joules) as idle_joules,"
        " count(auto_lost) as auto_answers, sum(case when auto_times is not null then joules end) as auto_joules,"
        " sum(joules * auto_times) as auto_largest_joules, avg(auto_lost) as auto_accuracy_lost"
        " from queries where started >= ? group by 1, 2 order by 1 is null, 1 desc, 2"
    )


def _errors(by: By) -> str:
    """SQL with the same parameter: of each answer that was predicted, how far that was off."""
    return (
        f"select {_COLUMNS[by]} as key, coalesce(quality, 'none') as quality,"
        " abs(predicted_joules - joules) / joules as prediction_error,"
        " abs(forecast_joules - joules) / joules as forecast_error,"
        " abs(forecast_tokens - completion_tokens) / nullif(completion_tokens, 0) as length_error"
        " from queries where started >= ? and joules > 0"
    )


_ERRORS = ("prediction_error", "forecast_error", "length_error")


def read(run: Callable[[str, list[float]], Iterable[dict[str, Any]]], by: By, since: float) -> list[dict[str, Any]]:
    """The rows of the report, from a ledger that `run` asks in SQL.

    Errors of predictions are medians: of joules for the tokens that came, of joules with the length that was expected,
    and of that length.
    """
    found: dict[tuple[Any, str], dict[str, list[float]]] = {}
    for row in run(_errors(by), [since]):
        own = found.setdefault((row["key"], row["quality"]), {name: [] for name in _ERRORS})
        for name in _ERRORS:
            own[name] += [] if row[name] is None else [row[name]]
    rows = []
    for row in run(query(by), [since]):
        known = found.get((row["key"], row["quality"]), {})
        errors = {name: median(known[name]) if known.get(name) else None for name in _ERRORS}
        rows.append({**row, **errors, "predictions": len(known.get("prediction_error", ()))})
    return rows


def whole(
    rows: Sequence[dict[str, Any]], by: By, days: int, *, tariff: float, currency: str, carbon: float
) -> dict[str, Any]:
    """What `localai energy` prints, as far as the ledger and the settings tell."""
    return {
        "by": by,
        "days": days,
        "rows": [priced(row, tariff=tariff, carbon=carbon) for row in rows],
        "tariff": tariff or None,
        "currency": currency,
        "carbon": carbon or None,
    }


def priced(row: dict[str, Any], *, tariff: float, carbon: float) -> dict[str, Any]:
    """A row with Wh, kWh, cost and grams of CO2 of all its joules, idle shares included; null where unknown."""
    joules = row["joules"]
    whole = None if joules is None else joules + (row["idle_joules"] or 0.0)
    kwh = None if whole is None else whole / _JOULES_PER_KWH
    return {
        **row,
        "wh": None if kwh is None else 1000 * kwh,
        "kwh": kwh,
        "cost": kwh * tariff if kwh is not None and tariff else None,
        "co2_g": kwh * carbon if kwh is not None and carbon else None,
    }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    rows: Sequence[dict[str, Any]] = report["rows"]
    if not rows:
        return "nothing was asked in this time"
    head = [report["by"], "quality", "queries", "tokens", "J", "idle J", "Wh", "kWh"]
    head += [f"cost {report['currency']}".strip()] if report["tariff"] else []
    head += ["g CO2"] if report["carbon"] else []
    cells = [head, *(list(_cells(row, report)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]  # fmt: skip
    return "\n".join([*(line.rstrip() for line in lines), *_notes(rows)])


def _cells(row: dict[str, Any], report: dict[str, Any]) -> Iterator[str]:
    yield str(row["key"] or "-")
    yield row["quality"]
    yield str(row["queries"])
    yield str(row["completion_tokens"] or 0)
    for name, digits in (("joules", "%.1f"), ("idle_joules", "%.1f"), ("wh", "%.3f"), ("kwh", "%.6f")):
        yield "unknown" if row[name] is None else digits % row[name]
    if report["tariff"]:
        yield "unknown" if row["cost"] is None else f"{row['cost']:.6f}"
    if report["carbon"]:
        yield "unknown" if row["co2_g"] is None else f"{row['co2_g']:.3f}"


def _notes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    qualities = {row["quality"] for row in rows}
    yield from _saved(rows)
    yield from _foretold(rows)
    if "modelled" in qualities:
        yield "modelled: worked out from CPU time and bytes moved; not to be compared with measured figures"
    if "none" in qualities:
        yield "none: nothing is known of these (failed, too short, or the sensor was lost)"


def _foretold(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How far predictions were off, in the group that has most of them."""
    most = max(rows, key=lambda row: row.get("predictions") or 0)
    if (most.get("predictions") or 0) < _ENOUGH:
        return
    parts = [f"joules of the tokens that came {most['prediction_error']:.0%}"]
    parts += [f"{words} {most[name]:.0%}" for name, words in _WORDS if most.get(name) is not None]
    yield f"predictions ({most['predictions']}) were off by a median of: {', '.join(parts)}"


_ENOUGH = 5
_WORDS = (("length_error", "expected length"), ("forecast_error", "joules before the answer"))


def _saved(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What model `auto` saved, per quality."""
    for quality in dict.fromkeys(row["quality"] for row in rows):
        own = [
            row for row in rows if row["quality"] == quality and row.get("auto_answers") and row["auto_largest_joules"]
        ]
        if not own:
            continue
        count = sum(row["auto_answers"] for row in own)
        took, largest = (sum(row[name] or 0.0 for row in own) for name in ("auto_joules", "auto_largest_joules"))
        lost = sum(row["auto_accuracy_lost"] * row["auto_answers"] for row in own) / count
        saved = f"{largest - took:.1f} J saved ({1 - took / largest:.0%})"
        yield (
            f"auto: {count} answers took {took:.1f} J where the largest model should have taken {largest:.1f} J:"
            f" {saved}, {100 * lost:.1f} points of accuracy lost, both expected ({quality})"
        )
