"""The ways in which models write one tool call, each read while it is being written.

A TextStream placed behind what opened the call enters; the call's name and its arguments, as valid JSON in pieces,
leave through a CallSink. NotACall says that the text is something else, or that it ends too soon.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from localai.jsonstream import SPACE, NotJson, Out, expect, read_text, read_value
from localai.messages import Tool
from localai.textstream import Reading, TextStream

_MAX_NAME = 128
_MAX_HEADER = 256
_MAX_PYTHON = 256 * 1024
_MAX_CHOICES = 8
_NAME_KEYS = ("name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")
_ENVELOPE_KEYS = ("id", "type")
_JSON_NAMES = {"true": True, "false": False, "null": None}


class NotACall(Exception):
    """This is no call in the syntax that was tried."""


class CallSink(Protocol):
    """Takes one call: its name, then pieces of its arguments."""

    def open(self, name: str) -> None: ...

    def write(self, text: str) -> None: ...


def checked_name(name: str) -> str:
    """`name`, if a tool can be called so."""
    if not name or len(name) > _MAX_NAME or not name.isprintable() or any(c in name for c in " <>{}[]()\"'"):
        raise NotACall
    return name


class _ObjectCall:
    """A JSON object that holds a name and arguments, in either order."""

    def __init__(self, stream: TextStream, sink: CallSink, known: frozenset[str] | None) -> None:
        self._stream = stream
        self._sink = sink
        self._known = known
        self._name = ""
        self._early: list[str] = []
        self._has_arguments = False

    def read(self) -> Reading[None]:
        try:
            yield from self._members()
        except NotJson as error:
            raise NotACall from error
        if not self._name:
            raise NotACall
        if not self._has_arguments:
            self._sink.write("{}")

    def _members(self) -> Reading[None]:
        yield from expect(self._stream, "{")
        while True:
            yield from self._stream.skip(SPACE)
            if (yield from self._stream.peek()) == "}":
                break
            key = yield from read_text(self._stream)
            yield from expect(self._stream, ":")
            yield from self._stream.skip(SPACE)
            yield from self._member(key, (yield from self._stream.peek()))
            yield from self._stream.skip(SPACE)
            if (yield from self._stream.peek()) != ",":
                break
            self._stream.at += 1
        yield from expect(self._stream, "}")

    def _member(self, key: str, first: str) -> Reading[None]:
        if key in _NAME_KEYS and first == '"' and not self._name:
            self._call((yield from read_text(self._stream)))
        elif key == "function" and first == "{":
            yield from self._members()
        elif key in _ARGUMENT_KEYS and not self._has_arguments:
            self._has_arguments = True
            out = self._sink.write if self._name else self._early.append
            yield from _read_arguments(self._stream, out, first)
        elif key in _ENVELOPE_KEYS or self._known is None:
            yield from read_value(self._stream, lambda text: None)
        else:
            raise NotACall

    def _call(self, name: str) -> None:
        if self._known is not None and name not in self._known:
            raise NotACall
        self._name = checked_name(name)
        self._sink.open(name)
        if self._early:
            self._sink.write("".join(self._early))


def read_object_call(stream: TextStream, sink: CallSink, known: frozenset[str] | None = None) -> Reading[None]:
    """Read `{"name": ..., "arguments": {...}}`; with `known`, only a call of one of these names counts as one.

    `function` stands for `name`, or holds both; `parameters` stands for `arguments`. Arguments may be JSON in a string.
    """
    yield from _ObjectCall(stream, sink, known).read()


def _read_arguments(stream: TextStream, out: Out, first: str) -> Reading[None]:
    if first == "{":
        yield from read_value(stream, out)
        return
    if first == '"':
        text = yield from read_text(stream)
    else:
        parts: list[str] = []
        yield from read_value(stream, parts.append)
        text = "".join(parts)
    try:
        value = json.loads(text, parse_constant=_not_a_number) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise NotACall from error
    if value is not None and not isinstance(value, dict):
        raise NotACall
    out(_dump(value or {}))


def read_named_call(stream: TextStream, sink: CallSink, header: str) -> Reading[None]:
    """Read a header that matches the regular expression `header`, then the arguments as a JSON object."""
    start = stream.at
    while (yield from stream.peek()) not in ("{", ""):
        stream.at += 1
        if stream.at - start > _MAX_HEADER:
            raise NotACall
    match = re.fullmatch(header, stream.text[start : stream.at])
    if match is None or stream.at >= len(stream.text):
        raise NotACall
    sink.open(checked_name(match["name"]))
    try:
        yield from read_value(stream, sink.write)
    except NotJson as error:
        raise NotACall from error


def read_parameters_call(stream: TextStream, sink: CallSink, tools: Mapping[str, Tool]) -> Reading[None]:
    """Read `NAME>`, then `<parameter=KEY>` VALUE `</parameter>` for each argument, then `</function>`.

    A value is text where the tool's schema allows a string; else it is read as JSON, and stays text if it is none.
    """
    name = checked_name((yield from _read_tag(stream)))
    sink.open(name)
    tool = tools.get(name)
    properties = tool.parameters.get("properties") if tool else None
    written: set[str] = set()
    while True:
        yield from stream.skip(SPACE)
        tag = yield from stream.one_of(("<parameter=", "</function>", "</tool_call>"))
        if tag != "<parameter=":
            break
        key = yield from _read_tag(stream)
        if key in written:
            raise NotACall
        sink.write(("{" if not written else ",") + json.dumps(key, ensure_ascii=False) + ":")
        written.add(key)
        schema = properties.get(key) if isinstance(properties, dict) else None
        yield from _read_parameter(stream, sink, schema)
    if not tag:
        raise NotACall
    sink.write("}" if written else "{}")


def _read_tag(stream: TextStream) -> Reading[str]:
    parts: list[str] = []
    while (character := (yield from stream.take(1))) != ">":
        parts.append(character)
        if not character or character in "\n<" or len(parts) > _MAX_NAME:
            raise NotACall
    return "".join(parts).strip()


def _read_parameter(stream: TextStream, sink: CallSink, schema: object) -> Reading[None]:
    if (yield from stream.peek()) == "\n":
        stream.at += 1
    ends = ("\n</parameter>", "</parameter>")
    if allows_string(schema):
        sink.write('"')
        found = yield from stream.until(ends, lambda text: sink.write(json.dumps(text, ensure_ascii=False)[1:-1]))
        sink.write('"')
    else:
        parts: list[str] = []
        found = yield from stream.until(ends, parts.append)
        sink.write(_dump(_guess("".join(parts))))
    if not found:
        raise NotACall


def allows_string(schema: object, depth: int = 0) -> bool:
    """Whether a JSON schema says that the value is, or may be, a string; a schema that makes no sense says no."""
    if not isinstance(schema, dict) or depth > _MAX_CHOICES:
        return False
    kinds = schema.get("type")
    if kinds == "string" or "string" in _items(kinds):
        return True
    if any(isinstance(value, str) for value in _items(schema.get("enum"))):
        return True
    choices = [*_items(schema.get("anyOf")), *_items(schema.get("oneOf"))]
    return any(allows_string(choice, depth + 1) for choice in choices)


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _guess(text: str) -> Any:
    stripped = text.strip()
    if stripped in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[stripped]
    try:
        return json.loads(stripped, parse_constant=_not_a_number)
    except (ValueError, RecursionError):
        return text


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair can come out of an escape; it has no UTF-8, so it stays an escape.
    return text if text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(value)


def _not_a_number(name: str) -> Any:
    raise ValueError(name)


def read_python_calls(stream: TextStream, sinks: CallSink, ends: tuple[str, ...]) -> Reading[None]:
    """Read a Python expression, one call or a list of them, up to one of `ends` or the end of the text.

    Each call's name and arguments are handed over whole. Arguments are keywords with literal values.
    """
    parts: list[str] = []
    yield from stream.until(ends, parts.append)
    text = "".join(parts).strip()
    if len(text) > _MAX_PYTHON:
        raise NotACall
    try:
        calls = [_literal_call(node) for node in _call_nodes(text)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NotACall from error
    if not calls:
        raise NotACall
    for name, arguments in calls:
        sinks.open(name)
        sinks.write(arguments)


def _call_nodes(text: str) -> list[ast.expr]:
    tree = ast.parse(text, mode="eval").body
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "print" and tree.args:
        return tree.args
    return tree.elts if isinstance(tree, ast.List) else [tree]


def _literal_call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise NotACall
    name = checked_name(ast.unparse(node.func))
    arguments = {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    return name, _dump(arguments)


def _literal(node: ast.expr) -> Any:
    for name in ast.walk(node):
        if isinstance(name, ast.Name) and name.id not in _JSON_NAMES:
            raise NotACall
    return ast.literal_eval(_JsonNames().visit(node))


class _JsonNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(_JSON_NAMES[node.id]), node)
