"""Accuracy and joules against the size of the memory as one SVG: two panels above each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localai.bench.memory_size import Size
from localai.bench.stats import Estimate

_LEFT, _W, _H, _GAP = 64, 560, 200, 70


def svg(sizes: Sequence[Size]) -> str:
    """Steps between sizes are drawn alike, as each is ten times the one before."""
    most = max((s.joules.high or s.joules.value for s in sizes if s.joules), default=1.0)
    panels = [
        _panel("Right answers (95 % intervals)", sizes, lambda s: s.accuracy, 1.0, "{:.0%}"),
        _panel(f"Joules of a question ({sizes[0].quality})", sizes, lambda s: s.joules, 1.1 * most, "{:.3g} J"),
    ]
    drawn = "".join(f'<g transform="translate(0 {n * (_H + _GAP)})">{panel}</g>' for n, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _W + 30} {2 * (_H + _GAP) + 10}"'
        f' style="font:13px system-ui,sans-serif"><rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>'
    )


def _panel(title: str, sizes: Sequence[Size], pick: Callable[[Size], Estimate | None], most: float, form: str) -> str:
    drawn = [f'<text x="{_LEFT}" y="22">{title}</text>']
    for quarter in range(5):
        y = _y(quarter / 4)
        drawn.append(f'<line x1="{_LEFT}" x2="{_LEFT + _W}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        shown = form.format(quarter / 4 * most)
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{shown}</text>')
    points = []
    for place, size in enumerate(sizes):
        x = _LEFT + (place + 0.5) * _W / len(sizes)
        drawn.append(f'<text x="{x:.1f}" y="{_y(0) + 20}" text-anchor="middle">{size.memories:,}</text>')
        value = pick(size)
        if value is None:
            continue
        points.append(f"{x:.1f},{_y(value.value / most):.1f}")
        if value.low is not None and value.high is not None:
            low, high = _y(value.low / most), _y(value.high / most)
            drawn.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="#06c"/>')
        drawn.append(f'<circle cx="{x:.1f}" cy="{_y(value.value / most):.1f}" r="5" fill="#06c"/>')
    drawn.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#06c"/>')
    return "".join(drawn)


def _y(share: float) -> float:
    return 36 + (1 - min(1.0, max(0.0, share))) * _H
