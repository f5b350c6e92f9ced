"""What was measured of engines, as rows of figures and as text for people. Records of one device enter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from localai.calibration_store import Record
from localai.choosing import Option, phases
from localai.forecast import fastest_of

_DEEP = 1024
_COLUMNS = (
    ("backend", "backend"),
    ("threads", "threads"),
    ("load_s", "load s"),
    ("prefill_tps", "prefill"),
    ("prefill_deep_tps", "at 1024"),
    ("decode_tps", "decode"),
    ("decode_deep_tps", "at 1024"),
    ("together_tps", "8 together"),
    ("embed_tps", "embed"),
    ("cores", "cores"),
    ("rss_mib", "MiB"),
    ("perplexity", "perplexity"),
    ("agreement", "alike"),
)


def row(record: Record) -> dict[str, Any]:
    """The figures of one backend with one model: token/s where not said otherwise; None for what was not measured."""
    found = fastest_of(record.readings)
    fidelity = record.fidelity
    shown: dict[str, Any] = {
        "model": record.name,
        "backend": record.subject.backend + (f":{record.subject.mode}" if record.subject.mode else ""),
        "build": record.subject.build,
        "problem": record.verdict or None,
        "passes": record.passes,
        "spent_s": record.spent_s,
        "rss_mib": round(record.rss / 2**20) or None,
        "perplexity": round(fidelity.perplexity, 3) if fidelity else None,
        "perplexity_ratio": round(fidelity.ratio, 4) if fidelity and fidelity.ratio is not None else None,
        "agreement": round(fidelity.agreement, 3) if fidelity and fidelity.agreement is not None else None,
        "foreign_cores": record.foreign,
        "at": record.at,
    }
    if found is None:
        return shown
    threads, speeds = found
    prefill, decode = speeds.rates()
    return shown | {
        "threads": threads,
        "load_s": round(speeds.load_s, 2),
        "prefill_tps": round(prefill, 1),
        "prefill_deep_tps": round(256 / speeds.prefill(256, _DEEP), 1),
        "decode_tps": round(decode, 1),
        "decode_deep_tps": round(1 / speeds.decode(1, _DEEP), 1),
        "together_tps": round(8 / speeds.decode(1, 0, 8), 1),
        "embed_tps": round(1 / speeds.embed, 1) if speeds.embed else None,
        "cores": round(speeds.busy, 2),
    }


def best(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """By model, the best backend of each phase with its token/s."""
    by_model: dict[str, list[Option]] = {}
    for record in records:
        found = fastest_of(record.readings)
        subject = record.subject
        option = Option(
            backend=subject.backend, mode=subject.mode, problem=record.verdict, speeds=found[1] if found else None
        )
        by_model.setdefault(record.name, []).append(option)
    return {
        name: {phase: {"backend": who, "tps": round(rate, 1)} for phase, (who, rate) in phases(options).items()}
        for name, options in by_model.items()
    }


def tables(records: Sequence[Record]) -> list[str]:
    """A table for each model, the best of each phase, and why a backend is not used; [] where nothing is known."""
    lines: list[str] = []
    winners = best(records)
    for name in dict.fromkeys(record.name for record in records):
        own = [row(record) for record in records if record.name == name]
        lines += [f"{name} (token/s)", *_table([shown for shown in own if "threads" in shown])]
        if words := ", ".join(f"{phase} {won['backend']}" for phase, won in winners[name].items()):
            lines.append(f"  best: {words}")
        for shown in own:
            lines += [f"  {note}" for note in _notes(shown)]
    return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    kept = [(key, title) for key, title in _COLUMNS if any(shown.get(key) is not None for shown in rows)]
    cells = [[title for _, title in kept], *([_cell(shown.get(key)) for key, _ in kept] for shown in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(kept))]
    return ["  " + "  ".join(_aligned(line, widths)) for line in cells]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def _notes(shown: dict[str, Any]) -> Iterable[str]:
    name = shown["backend"]
    if shown["problem"]:
        yield f"{name} is not used: {shown['problem']}"
    if shown["foreign_cores"] > 0.3:
        yield f"{name} was measured beside programs that took {shown['foreign_cores']:.1f} cores"
    day = time.strftime("%Y-%m-%d", time.localtime(shown["at"]))
    yield f"{name}: {shown['build']}, {shown['passes']} passes in {shown['spent_s']:.0f} s on {day}"
