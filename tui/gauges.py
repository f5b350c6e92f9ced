"""The lines under the transcript: what is going on, and what the shown answer was made with, how fast, for how much."""

from __future__ import annotations

from textual.widgets import Static

from localai.sanitize import one_line
from tui.wire import Figures, Progress

_BAR = 8
_MARKS = {"measured": "measured", "measured_partial": "partly measured", "modelled": "modelled", "none": "unknown"}


class Gauges(Static):
    """Two lines; the second, who answered, why, and what today took, is left out where there is little room."""

    DEFAULT_CSS = """
    Gauges { height: 2; padding: 0 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    Gauges.-short { height: 1; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._figures = Figures()
        self._activity = ""
        self._today = ""
        self.typed = 0

    def set_activity(self, text: str) -> None:
        self._activity = text
        self.show()

    def set_figures(self, figures: Figures) -> None:
        self._figures = figures
        self.show()

    def set_today(self, text: str) -> None:
        """What today's answers took, as `today_text` says it."""
        self._today = text
        self.show()

    def on_resize(self) -> None:
        self.set_class(self.app.size.height < 22, "-short")

    def show(self) -> None:
        first = [self._activity] if self._activity else []
        first += figures_text(self._figures)
        fallback = self._figures.memory_fallback
        told = f"memories found by {fallback}" if fallback else ""
        second = [self._today, *names_text(self._figures), told, self._figures.reason or ""]
        lines = (" · ".join(part for part in line if part) for line in (first, second))
        # Its height is fixed, so nothing else has to be laid out anew.
        self.update("\n".join(lines), layout=False)


def names_text(figures: Figures) -> list[str]:
    """Who answered."""
    return [one_line(name) for name in (figures.model, figures.backend) if name]


def figures_text(figures: Figures) -> list[str]:
    """What is known, piece by piece, what changes most first; what is not known is left out."""
    parts = []
    if figures.decode_tps is not None:
        parts.append(f"{figures.decode_tps:.1f} tok/s")
    if figures.ttft_ms is not None:
        parts.append(f"TTFT {figures.ttft_ms / 1000:.2f} s")
    if figures.joules is not None:
        parts.append(f"{joules_text(figures.joules)} {_MARKS.get(figures.quality or '', '')}".strip())
    elif figures.quality is not None:
        parts.append("J unknown")
    if figures.used is not None:
        parts.append(("" if figures.exact else "about ") + context_text(figures.used, figures.n_ctx))
    cached = [f"{tier} {tokens}" for tier, tokens in figures.cached or () if tokens]
    if cached:
        parts.append(f"cached {', '.join(cached)}")
    if figures.memories:
        count = len(figures.memories)
        parts.append(f"{count} {'memory' if count == 1 else 'memories'}")
    return parts


def context_text(used: int, served: int | None) -> str:
    """`42/2048 ▕█       ▏`, or the tokens alone where it is not known how many are served."""
    if not served:
        return f"{used} tokens"
    full = min(_BAR, round(_BAR * used / served))
    return f"{used}/{served} ▕{'█' * full}{' ' * (_BAR - full)}▏"


def joules_text(joules: float) -> str:
    return f"{joules / 1000:.2f} kJ" if joules >= 1000 else f"{joules:.1f} J"


def today_text(rows: list[dict[str, object]], day: str) -> str:
    """`today 12.0 J modelled`, for each quality that answers of `day` have; "" where there is none."""
    parts = []
    for row in rows:
        joules = row.get("joules")
        if row.get("key") == day and isinstance(joules, int | float):
            parts.append(f"{joules_text(joules)} {_MARKS.get(str(row.get('quality')), '')}".strip())
    return f"today {', '.join(parts)}" if parts else ""


def progress_text(progress: Progress) -> str:
    if progress.fraction is None:
        return f"{progress.stage}…"
    return f"{progress.stage} {progress.fraction:.0%}"
