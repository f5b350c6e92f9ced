"""A report as text for the terminal, and as one HTML page that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

from localai.bench import pareto
from localai.bench.report import Report
from localai.bench.stats import Estimate
from localai.bench.summary import Result

Rows = list[tuple[str, ...]]


def text(report: Report) -> str:
    """Table, categories, pairs, oracle, notes and plot."""
    parts = [head(report), grid(ranking(report.results)), grid(by_category(report.results))]
    if report.pairs:
        parts.append(grid(paired(report)))
    parts += [*best(report), pareto.terminal(report.results), *(f"note: {note}" for note in report.notes)]
    return "\n\n".join(part for part in parts if part)


def head(report: Report) -> str:
    """What was asked, where and with which sensors."""
    suite, device = report.suite, report.device
    sensors = ", ".join(sensor["id"] for sensor in report.sensors) or "no energy sensor"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.started))
    return (
        f"{suite['name']}: {suite['questions']} questions ({suite['source']}, {suite['digest'][:12]}), {when}\n"
        f"{device['cpu']}, {device['cores']} cores, {device['memory_bytes'] / 2**30:.0f} GiB; {sensors}\n{versions}"
    )


def ranking(results: Sequence[Result]) -> Rows:
    """Correct answers per kilojoule first."""
    first = ("", "CONFIGURATION", "RIGHT/kJ", "IPJ", "ACCURACY", "J", "J/RIGHT", "J/TOKEN", "IPW")
    rows: Rows = [(*first, "TTFT ms", "TOKEN/s", "MiB", "COVER", "JOULES ARE")]
    for r in results:
        worth = (f"{r.rank or '-'}", r.config, _est(r.per_kj), _one(r.ipj), _share(r.accuracy), _est(r.joules))
        power = (_one(r.joules_per_correct), _one(r.joules_per_token), _one(r.ipw))
        speed = (_num(r.ttft_ms), _num(r.decode_tps), "" if r.peak_bytes is None else f"{r.peak_bytes / 2**20:.0f}")
        rows.append((*worth, *power, *speed, f"{r.coverage:.0%}", r.quality))
    return rows


def by_category(results: Sequence[Result]) -> Rows:
    """Accuracy per category, with the joules of a question."""
    names = list(dict.fromkeys(category.name for result in results for category in result.categories))
    rows: Rows = [("ACCURACY (J)", *names)]
    for result in results:
        own = {category.name: category for category in result.categories}
        cells = []
        for name in names:
            known = own.get(name)
            joules = "" if known is None or known.joules is None else f" ({known.joules:.2g})"
            cells.append("" if known is None else f"{known.accuracy.value:.0%}{joules}")
        rows.append((result.config, *cells))
    return rows


def paired(report: Report) -> Rows:
    """Differences on the same questions."""
    rows: Rows = [("PAIR", "ACCURACY GAIN", "RATIO OF RIGHT/J", "")]
    for pair in report.pairs:
        known = "separate" if pair.separate else "not told apart"
        verdict = "not comparable" if pair.ipj_ratio is None else known
        rows.append((f"{pair.a} : {pair.b}", _points(pair.accuracy_gain), _est(pair.ipj_ratio), verdict))
    return rows


def best(report: Report) -> list[str]:
    """What to use, in one sentence, and what choosing per question could reach."""
    lines = []
    for quality, group in pareto.by_quality(report.results):
        first = group[0]
        rivals = [p.b for p in report.pairs if p.a == first.config and p.ipj_ratio and not p.separate]
        doubt = f"; not told apart from {', '.join(rivals)}" if rivals else ""
        lines.append(f"most correct answers per joule here ({quality}): {first.config}{doubt}")
    if (oracle := report.oracle) is not None:
        joules = "" if oracle.joules is None else f" at {oracle.joules:.3g} J a question"
        alone = "" if oracle.best_joules is None else f" at {oracle.best_joules:.3g} J"
        lines.append(
            f"best of all by question: {_share(oracle.accuracy)}{joules}; the most accurate alone, {oracle.best}: "
            f"{oracle.best_accuracy:.0%}{alone}"
        )
    return lines


def grid(rows: Rows) -> str:
    """Columns in line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def page(report: Report) -> str:
    """A self-contained page: no script, no font, no address."""
    sections = [ranking(report.results), by_category(report.results), paired(report)]
    body = "".join(f'<div class="wide">{_html(rows)}</div>' for rows in sections if len(rows) > 1)
    lines = "".join(f"<p>{escape(line)}</p>" for line in best(report))
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    digests = [("MODEL", "BACKEND", "BUILD", "SHA-256 OR NAME OF THE WEIGHTS")]
    digests += [(str(c["model"]), str(c["backend"]), str(c["build"]), str(c["digest"])) for c in report.configurations]
    described = "<br>".join(escape(line) for line in head(report).splitlines())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>localai bench {escape(report.suite['name'])}</title><style>{_STYLE}</style>"
        f"<h1>localai bench</h1><p>{described}</p>{lines}{pareto.svg(report.results)}{body}"
        f'<ul>{notes}</ul><div class="wide">{_html(digests)}</div></html>'
    )


_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1.5rem 0}td,th{padding:.3rem .7rem;text-align:left;border-bottom:1px solid"
    " #ddd;white-space:nowrap}.wide{overflow-x:auto}svg{max-width:46rem;width:100%}"
)


def _html(rows: Sequence[tuple[str, ...]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _est(value: Estimate | None) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:.3g}"
    return f"{value.value:.3g} [{value.low:.3g}, {value.high:.3g}]"


def _one(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.value:.3g}"


def _share(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.0%}"
    return f"{value.value:.0%} [{value.low:.0%}, {value.high:.0%}]"


def _points(value: Estimate) -> str:
    ends = "" if value.low is None or value.high is None else f" [{100 * value.low:+.0f}, {100 * value.high:+.0f}]"
    return f"{100 * value.value:+.0f} points{ends}"


def _num(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
