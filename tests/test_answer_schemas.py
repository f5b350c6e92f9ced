"""Schemas that answers have to match: objects that list their members get no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localai.api.schemas import schema_grammar

NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}
SHUT = NAME | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (NAME, SHUT),
        (NAME | {"additionalProperties": True}, NAME | {"additionalProperties": True}),
        ({"type": "object"}, {"type": "object"}),
        ({"type": "array", "items": NAME}, {"type": "array", "items": SHUT}),
        ({"$defs": {"a": NAME}, "anyOf": [NAME]}, {"$defs": {"a": SHUT}, "anyOf": [SHUT]}),
        ({"properties": {"properties": NAME}}, {"properties": {"properties": SHUT}, "additionalProperties": False}),
        ({"allOf": [NAME, {"required": ["b"]}]}, {"allOf": [NAME, {"required": ["b"]}]}),
        (NAME | {"anyOf": [{"required": ["name"]}]}, NAME | {"anyOf": [{"required": ["name"]}]}),
        ({"properties": 3, "items": [1], "anyOf": "x"}, {"properties": 3, "items": [1], "anyOf": "x"}),
    ],
    ids=["plain", "open", "unlisted", "items", "definitions", "a name", "put together", "beside", "nonsense"],
)
def test_what_is_listed_is_all(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = json.dumps(given)
    assert json.loads(schema_grammar(given).text) == wanted
    assert json.dumps(given) == before
