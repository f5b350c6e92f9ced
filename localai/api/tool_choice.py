"""OpenAI's `tool_choice`, of chat completions and of responses: which tools may be called, and which must be. Pure."""

from __future__ import annotations

from typing import Any

from localai.errors import BadRequest
from localai.messages import Tool, ToolChoice


def allowed_of(value: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The tools that may be called: those of `allowed_tools`, else all."""
    shape = _allowed(value)
    if shape is None:
        return tools
    listed = shape.get("tools")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    functions = [each.get("function", each) for each in entries]
    names = [each.get("name") for each in functions if isinstance(each, dict)]
    return tuple(tool for tool in tools if tool.name in names)


def _allowed(value: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """What `allowed_tools` says, which chat completions nest one level deeper than responses."""
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return None
    nested = value.get("allowed_tools")
    return nested if isinstance(nested, dict) else value


def tool_choice_of(value: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Which of `tools` must be called. Raises BadRequest where it names none of them."""
    shape = _allowed(value)
    if shape is not None and tools:
        value = str(shape.get("mode", "auto"))
    if value is None or value == "auto":
        return ToolChoice("auto" if tools else "none")
    if value == "none":
        return ToolChoice("none")
    if value in ("required", "any") and tools:
        return ToolChoice("required")
    named = value.get("function", value) if isinstance(value, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(name, str) and any(tool.name == name for tool in tools):
        return ToolChoice("required", name)
    offered = ", ".join(tool.name for tool in tools) or "none were sent"
    raise BadRequest(f"tool_choice {value!r} names no tool of this request", f"tools: {offered}", param="tool_choice")
