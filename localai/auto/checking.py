"""Whether an answer may be given: samples that say the same, and a form that holds. Texts enter, verdicts leave. Pure.

Self-consistency as in Wang et al., 2023, cut short where two agree.
"""

from __future__ import annotations

import ast
import re
from typing import Literal

from localai.bench.scoring import plain

SHORT = 64
"""Tokens up to which two answers can be told alike by a program."""
_COMPARABLE = frozenset(("arithmetic", "extraction", "ordering", "retrieval", "formatting", "choice"))
_NUMERIC = frozenset(("arithmetic", "retrieval"))
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LEAD = re.compile(r"^(?:the )?(?:final )?(?:answer|result|code|number)(?: is:?|:)\s*", re.IGNORECASE)
_FENCE = re.compile(r"```(?:python|py)\n(.*?)```", re.DOTALL)

Fault = Literal["is empty", "was cut", "does not parse"]


def comparable(category: str, max_tokens: int | None) -> bool:
    """Whether answers to such a query are short enough, and of one right form, to be compared."""
    return category in _COMPARABLE and (max_tokens is None or max_tokens <= SHORT)


def sound(text: str, finish: str, max_tokens: int | None) -> Fault | None:
    """What is wrong with the form of an answer, None for nothing.

    An answer that ended at the limit which was asked for is what was asked for.
    """
    if not text.strip():
        return "is empty"
    if finish == "length" and max_tokens is None:
        return "was cut"
    for block in _FENCE.findall(text):
        try:
            ast.parse(block)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "does not parse"
    return None


def alike(a: str, b: str, category: str) -> bool:
    """Whether two answers say the same."""
    return bool(a.strip()) and _key(a, category) == _key(b, category)


def _key(text: str, category: str) -> str:
    if category in _NUMERIC:
        numbers = _NUMBER.findall(text)
        if numbers:
            return f"{float(numbers[-1].replace(',', '')):g}"
    return _LEAD.sub("", plain(text)).casefold()
