"""The last finished benchmark: accuracy per joule of each configuration, and accuracy against joules as a plot."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from localai.client import Client
from localai.errors import LocalaiError
from localai.sanitize import clean, one_line
from tui.fetching import FetchingScreen


class BenchScreen(FetchingScreen[None]):
    CSS = "BenchScreen VerticalScroll { padding: 0 1; }"
    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f7", "dismiss(None)", "Back")]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._page = Static("looking…", markup=False)

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield self._page
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        def ask() -> str:
            try:
                return bench_text(self._client.get("/localai/bench"))
            except LocalaiError as error:
                return f"{clean(error.message)}. {clean(error.hint)}"

        self.fetch(ask, self._page.update)


def bench_text(body: dict[str, Any]) -> str:
    """The daemon's report of one run, for people."""
    started = datetime.fromtimestamp(body["started"], UTC)
    lines = [f"Benchmark {one_line(body['suite'])}, {started:%Y-%m-%d %H:%M} UTC", "", clean(body["plot"]), ""]
    lines += [f"{'configuration':34} {'right':>6} {'J/question':>11} {'right/kJ':>9} {'tok/s':>7}  figures"]
    lines += [_result_text(result) for result in body["results"]]
    return "\n".join([*lines, "", *(f"- {one_line(note)}" for note in body["notes"])])


def _result_text(result: dict[str, Any]) -> str:
    def cell(name: str, form: str, width: int) -> str:
        found = result.get(name)
        value = found["value"] if isinstance(found, dict) else found
        return f"{'?' if value is None else format(value, form):>{width}}"

    figures = [cell("accuracy", ".0%", 6), cell("joules", ".3g", 11), cell("per_kj", ".3g", 9)]
    figures += [cell("decode_tps", ".1f", 7), f" {result['quality']}"]
    return f"{one_line(result['config'])[:34]:34} {' '.join(figures)}"
