"""The line under the transcript: what is going on, or what the last answer was made with and how fast."""

from __future__ import annotations

from textual.widgets import Static

from tui.wire import Figures, Progress, one_line


class StatusLine(Static):
    """Shows `activity` while there is one, and the figures that are known."""

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._figures = Figures()
        self._activity = ""

    def set_activity(self, text: str) -> None:
        self._activity = text
        self._show()

    def set_figures(self, figures: Figures) -> None:
        self._figures = figures
        self._show()

    def _show(self) -> None:
        parts = [self._activity] if self._activity else []
        self.update(" · ".join(parts + figures_text(self._figures)))


def figures_text(figures: Figures) -> list[str]:
    """What is known, piece by piece; what is not known is left out."""
    parts = [one_line(name) for name in (figures.model, figures.backend) if name]
    if figures.decode_tps is not None:
        parts.append(f"{figures.decode_tps:.1f} tok/s")
    if figures.ttft_ms is not None:
        parts.append(f"TTFT {figures.ttft_ms / 1000:.2f} s")
    if figures.used is not None:
        parts.append(f"{figures.used}/{figures.n_ctx} tokens" if figures.n_ctx else f"{figures.used} tokens")
    return parts


def progress_text(progress: Progress) -> str:
    if progress.fraction is None:
        return f"{progress.stage}…"
    return f"{progress.stage} {progress.fraction:.0%}"
