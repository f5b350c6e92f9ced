"""The Jinja filters that chat templates use, each charged to the rendering's budget.

Jinja's own where they cannot make text grow; ours where they can. They take the context, and so are never evaluated
at compile time, where no budget is in force.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from jinja2 import filters as stock
from jinja2.runtime import Context, Undefined
from jinja2.utils import pass_context

from localai.jinja_budget import Overrun, current

_MAX_INDENT = 64
_STOCK = (
    "abs",
    "count",
    "d",
    "default",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "last",
    "length",
    "list",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "select",
    "selectattr",
)
_COPYING = ("capitalize", "dictsort", "lower", "sort", "title", "trim", "unique", "upper")


def replace_size(text: str, old: str, new: str) -> int:
    """Length of `text` once every `old` is `new`."""
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, Undefined):
        raise TypeError("an undefined value has no JSON")
    if isinstance(value, Iterator):
        value = list(value)
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _MAX_INDENT or sum(map(len, separators or ())) > _MAX_INDENT:
        raise Overrun("it indents too far")
    # Each of the values may stand on a line of its own, and ASCII escapes take up to 12 characters.
    current().require(current().weigh(value) * (2 + width))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_refuse
    )


def _refuse(value: object) -> Any:
    raise TypeError(f"a {type(value).__name__} has no JSON")


def _join(value: Any, d: str = "", attribute: str | int | None = None, *, context: Context) -> str:
    items = [context.environment.getitem(item, attribute) for item in value] if attribute is not None else list(value)
    separator = str(d)
    current().require(current().weigh(items) + len(separator) * len(items))
    return separator.join(map(str, items))


def _replace(s: Any, old: str, new: str, count: int = -1) -> str:
    text = _string(s)
    current().require(replace_size(text, str(old), str(new)))
    return text.replace(str(old), str(new), -1 if count is None else count)


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    pad = width if isinstance(width, str) else " " * min(width, _MAX_INDENT + 1)
    if len(pad) > _MAX_INDENT:
        raise Overrun("it indents too far")
    text = _string(s)
    lines = text.splitlines()
    current().require(len(text) + len(pad) * len(lines))
    padded = [pad + line if (index or first) and (line or blank) else line for index, line in enumerate(lines)]
    return "\n".join(padded) + ("\n" if text.endswith("\n") else "")


def _escape(value: Any) -> str:
    current().require(current().weigh(value) * 6)
    return html.escape(str(value))


def _string(value: Any) -> str:
    current().weigh(value)
    return str(value)


def _guarded(function: Callable[..., Any], copies: bool = False) -> Callable[..., Any]:
    """Charge what `function` returns, and what it takes if it `copies` that.

    It is handed whichever of Jinja's three objects it asks for.
    """
    asks = getattr(function, "jinja_pass_arg", None)
    wants = asks.name if asks is not None else None

    @pass_context
    @wraps(function, updated=())
    def filtered(context: Context, *args: Any, **kwargs: Any) -> Any:
        if copies:
            current().weigh(*args, printed=False)
        extra = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        result = function(*([extra[wants]] if wants else []), *args, **kwargs)
        current().tick(len(result) if isinstance(result, str | list | tuple) else 0)
        return result

    return filtered


@pass_context
def _join_filter(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    return _join(value, d, attribute, context=context)


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _guarded(stock.FILTERS[name]) for name in _STOCK},
    **{name: _guarded(stock.FILTERS[name], copies=True) for name in _COPYING},
    "e": _guarded(_escape),
    "escape": _guarded(_escape),
    "indent": _guarded(_indent),
    "join": _guarded(_join_filter),
    "replace": _guarded(_replace),
    # Nothing is escaped here, and text marked as safe would make Jinja escape what is added to it.
    "safe": _guarded(_string),
    "string": _guarded(_string),
    "tojson": _guarded(_tojson),
}
