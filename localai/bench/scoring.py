"""Whether an answer is right, by program and never by a judge: an Item and what the model said in, a verdict out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from localai.bench import instructions
from localai.bench.sandbox import passes
from localai.bench.tasks import Item

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def right(item: Item, text: str) -> bool:
    """Whether `text` answers `item`; not for items that are decided by likelihood."""
    return _SCORERS[item.scorer](item, text)


def likeliest(scores: Sequence[tuple[float, int]]) -> tuple[int, int]:
    """Of the choices' log-probabilities (natural) and lengths in characters: the best by sum, and by mean of one.

    Ties go to the first, as numpy's argmax does.
    """
    sums = [total for total, _ in scores]
    means = [total / length for total, length in scores]
    return sums.index(max(sums)), means.index(max(means))


def plain(text: str) -> str:
    """Text as it is compared: one line, single spaces, without a closing full stop or quotes around it."""
    line = next((line for line in text.strip().splitlines() if line.strip()), "")
    return " ".join(line.split()).rstrip(".").strip("\"'").rstrip(".").strip()


def _exact(item: Item, text: str) -> bool:
    return plain(text) in {plain(answer) for answer in item.answers}


def _number(item: Item, text: str) -> bool:
    found = _NUMBER.search(text)
    return found is not None and _value(found[0]) in {_value(answer) for answer in item.answers}


def _last_number(item: Item, text: str) -> bool:
    found = _NUMBER.findall(text)
    return bool(found) and _value(found[-1]) in {_value(answer) for answer in item.answers}


def _value(written: str) -> float:
    found = _NUMBER.search(written)
    return float(found[0].replace(",", "").replace("$", "")) if found else float("nan")


def _json(item: Item, text: str) -> bool:
    try:
        value = json.loads(text.strip())
    except ValueError:
        return False
    return any(value == json.loads(answer) for answer in item.answers)


def _code(item: Item, text: str) -> bool:
    return passes(f"{item.prompt}{text}\n{item.tests}")


def _instructions(item: Item, text: str) -> bool:
    return instructions.all_met(text, item.demands)


def _never(item: Item, text: str) -> bool:
    raise AssertionError(f"{item.id} is decided by likelihood, not by {len(text)} characters")


_SCORERS: dict[str, Callable[[Item, str], bool]] = {
    "exact": _exact,
    "number": _number,
    "last_number": _last_number,
    "json": _json,
    "code": _code,
    "instructions": _instructions,
    "choice": _never,
}
