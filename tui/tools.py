"""Tools of the daemon's MCP servers: which of them a chat may use, and whether each may run; questions about calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from textual.binding import Binding, BindingType
from textual.widgets import OptionList, Static

from localai.client import Client
from localai.sanitize import one_line
from tui.listing import ListScreen
from tui.wire import ToolAsked

_ROOT = "/localai/tools"
_NEXT = {"ask": "always", "always": "never", "never": "ask"}


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool; `consent` is `ask`, `always` or `never`, for all chats."""

    name: str
    server: str
    description: str
    consent: str


class Tools(ListScreen[tuple[str, ...]]):
    """Leaves with the names of the tools that this chat uses."""

    HEADING = "Tools: Enter lets this chat use one or not, C changes ask, always, never for all chats; Esc keeps it so"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "consent", "Ask, always, never")]

    def __init__(self, client: Client, used: tuple[str, ...], *, live: bool = True) -> None:
        """Not `live`, it shows only the tools that it is given."""
        super().__init__()
        self._live = live
        self._client = client
        self._used = dict.fromkeys(used)
        self._tools: dict[str, ToolLine] = {}
        self._problems: tuple[str, ...] = ()

    def on_mount(self) -> None:
        if self._live:
            self._look()

    def show(self, tools: tuple[ToolLine, ...], problems: tuple[str, ...]) -> None:
        """List these, and what is wrong with servers."""
        self._tools, self._problems = {tool.name: tool for tool in tools}, problems
        self._show()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        name = event.option_id or ""
        if name in self._used:
            del self._used[name]
        elif name in self._tools:
            self._used[name] = None
        self._show()

    def action_consent(self) -> None:
        tool = self._tools.get(self.chosen or "")
        if tool is not None:
            path, body = f"{_ROOT}/{quote(tool.name)}/consent", {"consent": _NEXT[tool.consent]}
            self.fetch(lambda: self._client.post(path, body), lambda _: self._look())

    def action_back(self) -> None:
        self.dismiss(tuple(self._used))

    def _look(self) -> None:
        self.fetch(lambda: tools_of(self._client.get(_ROOT, timeout=120)), lambda found: self.show(*found))

    def _show(self) -> None:
        rows = [(tool.name, tool_text(tool, tool.name in self._used)) for tool in self._tools.values()]
        rows += [(f"problem {number}", f"    {text}") for number, text in enumerate(self._problems)]
        self.fill(rows, empty="No tools: tools.toml in the daemon's home declares MCP servers")


class Question(Static):
    """One line that asks whether a tool may run; hidden while none wants to."""

    DEFAULT_CSS = """
    Question { height: 1; padding: 0 1; color: $warning; display: none; text-wrap: nowrap; text-overflow: ellipsis; }
    Question.-some { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.asked: ToolAsked | None = None

    def ask(self, asked: ToolAsked | None, how: str = "") -> None:
        """Ask about a call, `how` naming the keys; None asks no more."""
        self.asked = asked
        if asked is not None:
            self.update(f"{asked.tool} of {asked.server}? {how}: {one_line(asked.arguments)}", layout=False)
        self.set_class(asked is not None, "-some")


def tools_of(body: dict[str, Any]) -> tuple[tuple[ToolLine, ...], tuple[str, ...]]:
    """All tools, and what is wrong with servers."""
    tools = tuple(
        ToolLine(tool["name"], one_line(tool["server"]), one_line(tool["description"]), one_line(tool["consent"]))
        for server in body["servers"]
        for tool in server["tools"]
    )
    problems = [f"{server['name']}: {server['problem']}" for server in body["servers"] if server["problem"]]
    return tools, tuple(map(one_line, problems))


def tool_text(tool: ToolLine, used: bool) -> str:
    return f"{'[x]' if used else '[ ]'} {one_line(tool.name):24} {tool.consent:6} {tool.server}: {tool.description}"
