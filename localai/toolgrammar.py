"""The language that an answer must stay in when a tool has to be called: a Lark grammar for llguidance.

A tool format, tools and the client's choice enter. The grammar writes the family's own syntax, with arguments that
match the tool's JSON schema, so that a model of any size makes a valid call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from backends.contract import Grammar
from localai.callsyntax import allows_string
from localai.errors import BadRequest
from localai.messages import Tool, ToolChoice
from localai.toolformats import CHANNELS, Layout, ReasoningFormat, ToolFormat

# Keywords that the engine cannot enforce are ignored rather than refused, and there is one way to write each value:
# free choice of white space invites small models to write nothing else.
_MOST_CALLS = 16
"""In one answer, where it must call."""
_STYLE = {"lenient": True, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tool_grammar(
    tool_format: ToolFormat,
    tools: Sequence[Tool],
    choice: ToolChoice,
    parallel: bool,
    *,
    special: Mapping[str, int] | None = None,
    reasoning: ReasoningFormat | None = None,
    starts_in_reasoning: bool = False,
) -> Grammar | None:
    """The grammar of an answer that calls a tool, None where the choice leaves the model free.

    With `auto` the model is free even if a tool is strict: its arguments are not held to the schema then. `special`
    maps those of the format's markers that are one control token of the vocabulary to that token's id; markers that
    are missing from it are written as plain text. Where the prompt ends inside reasoning, the grammar lets that end
    first. Raises BadRequest for a choice that names no tool.
    """
    if choice.mode != "required" and choice.name is None:
        return None
    chosen = [tool for tool in tools if choice.name in (None, tool.name)]
    if not chosen:
        raise _no_such_tool(tools, choice)
    writer = _Writer(tool_format, special or {})
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(chosen)))}"]
    for index, tool in enumerate(chosen):
        rules += writer.call(index, tool)
    layout = tool_format.layout
    # A small model that has begun to call may never stop: whoever names a tool means one call of it.
    several = parallel and tool_format.parallel and choice.name is None
    more = f" ({writer.text(layout.between)} call){{0,{_MOST_CALLS - 1}}}" if several else ""
    begin, begin_rules = _begin(writer, reasoning, starts_in_reasoning)
    start = [begin, writer.text(layout.start), "call" + more, writer.text(layout.stop)]
    return Grammar("lark", "\n".join(["start: " + " ".join(filter(None, start)), *begin_rules, *rules]) + "\n")


def _no_such_tool(tools: Sequence[Tool], choice: ToolChoice) -> BadRequest:
    if choice.name is None or not tools:
        return BadRequest("tool_choice asks for a call, but there are no tools", "send tools", param="tool_choice")
    nearest = get_close_matches(choice.name, [tool.name for tool in tools], 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the tools are {', '.join(t.name for t in tools)}"
    return BadRequest(f"tool_choice names {choice.name!r}, which is not among the tools", hint, param="tool_choice")


def _begin(writer: _Writer, reasoning: ReasoningFormat | None, inside: bool) -> tuple[str, list[str]]:
    """What comes before the first call: the rest of the reasoning, or for Harmony a message of it."""
    if reasoning is CHANNELS:
        opening, close = writer.text("<|channel|>analysis<|message|>"), writer.text("<|start|>assistant")
        return "(thought)?", [f"thought: {opening} {writer.up_to('<|end|>')} {close}", *writer.free_text("<|end|>")]
    if reasoning is None or not inside:
        return "", []
    return f"{writer.up_to(reasoning.close)} {writer.text(chr(10))}", writer.free_text(reasoning.close)


class _Writer:
    """Writes rules for one format: markers that are control tokens by id, all else as text."""

    def __init__(self, tool_format: ToolFormat, special: Mapping[str, int]) -> None:
        self._format = tool_format
        self._special = special
        alternatives = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        self._split = re.compile(f"({alternatives})" if special else r"(?!)")

    def text(self, text: str) -> str:
        parts = [part for part in self._split.split(text) if part]
        return " ".join(f"<[{self._special[part]}]>" if part in self._special else _quoted(part) for part in parts)

    def up_to(self, end: str) -> str:
        """Any text, and `end` behind it."""
        return f"free {self.text(end)}" if end in self._special else "free"

    def free_text(self, end: str) -> list[str]:
        if end in self._special:
            return ["free: /(.|\\n)*/"]
        return [f"free[suffix={_quoted(end)}]: /(.|\\n)*/"]

    def call(self, index: int, tool: Tool) -> list[str]:
        """The rules of `call_INDEX`."""
        layout = self._format.layout
        opening, ending = self.text(layout.call.replace("NAME", tool.name)), self.text(layout.end)
        if not layout.key:
            return [
                f"call_{index}: {opening} arguments_{index} {ending}",
                f"arguments_{index}: %json {_json(_arguments_schema(tool))}",
            ]
        members, rules = self._members(index, tool, layout)
        return [f"call_{index}: {opening} {members} {ending}", *rules]

    def _members(self, index: int, tool: Tool, layout: Layout) -> tuple[str, list[str]]:
        """The arguments one by one, in the schema's order, required ones first."""
        schema = _arguments_schema(tool)
        required = schema.get("required", [])
        keys = sorted(schema.get("properties", {}), key=lambda key: key not in required)
        parts, rules = [], []
        for number, key in enumerate(keys):
            name = f"value_{index}_{number}"
            value, complete = self._value(schema, schema["properties"][key], layout)
            rules.append(name + value)
            ending = "" if complete else self.text(layout.value_end)
            parts.append((f"{self.text(layout.key.replace('KEY', key))} {name} {ending}".rstrip(), key in required))
        return _sequence(parts, self.text(layout.comma)), rules

    def _value(self, root: dict[str, Any], schema: Any, layout: Layout) -> tuple[str, bool]:
        """The rule of one argument behind its name, and whether the value's ending is part of it."""
        if layout.value_end and allows_string(schema):
            options = [option for option in _enumerated(schema) if isinstance(option, str)]
            if options:
                return ": " + " | ".join(_quoted(option) for option in options), False
            return f"[suffix={_quoted(layout.value_end)}]: /(.|\\n)*/", True
        shared: dict[str, Any] = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return f": %json {_json({**(schema if isinstance(schema, dict) else {}), **shared})}", False


def _enumerated(schema: object) -> list[Any]:
    options = schema.get("enum") if isinstance(schema, dict) else None
    return options if isinstance(options, list) else []


def _sequence(parts: Iterable[tuple[str, bool]], comma: str) -> str:
    """`parts` in order, those that are not required left out at will; required ones come first."""
    text, first = "", True
    optional: list[str] = []
    for part, required in parts:
        if required:
            text += f" {part}" if first else f" {comma} {part}"
            first = False
        else:
            optional.append(part)
    if first and comma and optional:
        # Nothing before it: whichever comes first goes without a comma.
        tails = ["".join(f" ({comma} {later})?" for later in optional[i + 1 :]) for i in range(len(optional))]
        return "(" + " | ".join(part + tail for part, tail in zip(optional, tails, strict=True)) + ")?"
    return (text + "".join(f" ({comma} {part})?" for part in optional)).strip()


def _arguments_schema(tool: Tool) -> dict[str, Any]:
    """The tool's schema as that of an object; members that it does not name are not allowed unless it says so.

    Raises BadRequest where it cannot be one.
    """
    schema = {"type": "object", **tool.parameters}
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema["type"] != "object" or not isinstance(properties, dict) or not isinstance(required, list):
        hint = "give `parameters` as a JSON schema of an object, with `properties` and `required`"
        raise BadRequest(f"the parameters of the tool {tool.name!r} are no object's schema", hint, param="tools")
    if not any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref", "patternProperties")):
        schema.setdefault("properties", {})
        schema.setdefault("additionalProperties", False)
    return schema


def _json(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _STYLE})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
