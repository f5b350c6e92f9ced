"""The JSON schema that a client asks an answer to match in; the grammar of the objects that it describes out.

An object that lists its members and says nothing of others is closed, as llama-server reads it: a small model would
go on to make up members. Schemas that are put together of parts stay as they are.
"""

from __future__ import annotations

import json
from typing import Any

from backends.contract import Grammar

_TOGETHER = frozenset({"allOf", "not", "if", "dependentSchemas", "unevaluatedProperties"})
_CHOICES = ("anyOf", "oneOf")
_SINGLE = ("items", "additionalProperties")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def schema_grammar(schema: dict[str, Any]) -> Grammar:
    """The grammar of what `schema` describes; whether it can be used is for the engine to say."""
    return Grammar("json_schema", json.dumps(schema if _put_together(schema) else _closed(schema)))


def _parts(schema: dict[str, Any]) -> list[Any]:
    """The schemas directly within one."""
    single = [schema[key] for key in _SINGLE if key in schema]
    listed = [part for key in (*_CHOICES, "prefixItems") for part in _items(schema.get(key))]
    named = [part for key in _NAMED if isinstance(schema.get(key), dict) for part in schema[key].values()]
    return [part for part in (*single, *listed, *named) if isinstance(part, dict)]


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _put_together(schema: dict[str, Any]) -> bool:
    """Whether several parts hold for one object, so that closing one of them would shut out the others."""
    mixed = "properties" in schema and any(key in schema for key in (*_CHOICES, "$ref"))
    return mixed or not _TOGETHER.isdisjoint(schema) or any(map(_put_together, _parts(schema)))


def _closed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    made = dict(value)
    for key in _SINGLE:
        if key in made:
            made[key] = _closed(made[key])
    for key in (*_CHOICES, "prefixItems"):
        if isinstance(made.get(key), list):
            made[key] = [_closed(part) for part in made[key]]
    for key in _NAMED:
        if isinstance(made.get(key), dict):
            made[key] = {name: _closed(part) for name, part in made[key].items()}
    if isinstance(made.get("properties"), dict) and made["properties"] and "patternProperties" not in made:
        made.setdefault("additionalProperties", False)
    return made
