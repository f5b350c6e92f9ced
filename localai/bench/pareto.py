"""Accuracy against joules of a question: which configurations nothing else beats in both, and plots of that.

Results enter; text for the terminal or an SVG image leaves. Figures of different quality get plots of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from localai.bench.summary import Result

_WIDTH, _HEIGHT = 64, 14
_MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_COLOURS = ("#1b6ca8", "#b8442f", "#2e7d4f", "#7a4fa3", "#a8761b", "#3d8f8f", "#8c3a66", "#5b6770")


def front(results: Sequence[Result]) -> tuple[str, ...]:
    """Of results of one quality, those of which no other is at least as good in both and better in one."""
    points = [(r.config, r.accuracy.value, r.joules.value) for r in results if r.joules is not None]
    return tuple(
        name
        for name, right, joules in points
        if not any(r >= right and j <= joules and (r > right or j < joules) for _, r, j in points)
    )


def by_quality(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Results that have joules, in groups that may be compared."""
    known = [result for result in results if result.joules is not None]
    return [(quality, list(group)) for quality, group in groupby(known, key=lambda r: r.quality)]


def terminal(results: Sequence[Result]) -> str:
    """Letters on a grid, one per configuration; those on the front are upper case and listed with a star."""
    parts = []
    for quality, group in by_quality(results):
        best = front(group)
        low, high, scale = _axis(group)
        grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
        legend = []
        for mark, result in zip(_MARKS, group, strict=False):
            assert result.joules is not None
            x = round(scale(result.joules.value) * (_WIDTH - 1))
            y = round((1 - result.accuracy.value) * (_HEIGHT - 1))
            grid[y][x] = mark if grid[y][x] == " " else "*"
            star = " (front)" if result.config in best else ""
            legend.append(f"  {mark} {result.config}{star}")
        lines = [f"{_percent(n)} |{''.join(row)}" for n, row in enumerate(grid)]
        axis = f"{low:.3g} J".ljust(_WIDTH - 10) + f"{high:.3g} J".rjust(10)
        title = f"accuracy against joules of a question ({quality}; log scale; * several)"
        parts.append("\n".join([title, *lines, "     +" + "-" * _WIDTH, "      " + axis, *legend]))
    return "\n\n".join(parts)


def _percent(row: int) -> str:
    share = 1 - row / (_HEIGHT - 1)
    return f"{share:4.0%}" if row % 3 == 0 or row == _HEIGHT - 1 else "    "


def _axis(group: Sequence[Result]) -> tuple[float, float, _Scale]:
    values = [result.joules.value for result in group if result.joules is not None]
    low, high = min(values) / 1.2, max(values) * 1.2
    return low, high, _Scale(math.log(low), math.log(high))


class _Scale:
    """Joules to 0..1 between two logarithms."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._span = low, high - low

    def __call__(self, joules: float) -> float:
        return min(1.0, max(0.0, (math.log(joules) - self._low) / self._span))


_LEFT, _TOP, _W, _H, _LINE = 60, 46, 560, 320, 18


def svg(results: Sequence[Result]) -> str:
    """One image with a panel per quality: points with 95 % intervals both ways, and the front as a line."""
    groups = by_quality(results)
    sizes = [_TOP + _H + 50 + _LINE * len(group) for _, group in groups]
    body, top = [], 0
    for (quality, group), size in zip(groups, sizes, strict=True):
        body.append(f'<g transform="translate(0 {top})">{_panel(quality, group)}</g>')
        top += size
    style = "font:13px system-ui,sans-serif"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _W + 40} {max(top, 40)}" style="{style}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>'
    )


def _panel(quality: str, group: Sequence[Result]) -> str:
    low, high, scale = _axis(group)
    best = front(group)
    title = f"Accuracy against joules of a question, {escape(quality)} (95 % intervals)"
    drawn = [f'<text x="{_LEFT}" y="24">{title}</text>']
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        drawn.append(f'<line x1="{_LEFT}" x2="{_LEFT + _W}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tenth * 10} %</text>')
    for share in (0.0, 0.5, 1.0):
        joules = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        x = _LEFT + share * _W
        drawn.append(f'<text x="{x}" y="{_TOP + _H + 20}" text-anchor="middle">{joules:.3g} J</text>')
    line = sorted((r.joules.value, r.accuracy.value) for r in group if r.joules and r.config in best)
    points = " ".join(f"{_LEFT + scale(joules) * _W:.1f},{_y(right):.1f}" for joules, right in line)
    drawn.append(f'<polyline points="{points}" fill="none" stroke="#999" stroke-dasharray="4 3"/>')
    for number, result in enumerate(group):
        drawn.append(_point(number, result, scale, front=result.config in best))
    return "".join(drawn)


def _point(number: int, result: Result, scale: _Scale, *, front: bool) -> str:
    assert result.joules is not None
    colour = _COLOURS[number % len(_COLOURS)]
    x, y = _LEFT + scale(result.joules.value) * _W, _y(result.accuracy.value)
    bars = ""
    if result.accuracy.low is not None and result.accuracy.high is not None:
        bars += _line(x, x, _y(result.accuracy.low), _y(result.accuracy.high))
    if result.joules.low and result.joules.high:
        bars += _line(_LEFT + scale(result.joules.low) * _W, _LEFT + scale(result.joules.high) * _W, y, y)
    label = f"{escape(result.config)}: {result.accuracy.value:.0%}, {result.joules.value:.3g} J" + ", front" * front
    below = _TOP + _H + 44 + _LINE * number
    return (
        f'<g stroke="{colour}" opacity="0.9">{bars}<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/></g>'
        f'<circle cx="{_LEFT}" cy="{below - 4}" r="5" fill="{colour}"/>'
        f'<text x="{_LEFT + 12}" y="{below}">{label}</text>'
    )


def _y(share: float) -> float:
    return _TOP + (1 - share) * _H


def _line(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
