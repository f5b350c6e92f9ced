"""What `/set NAME VALUE` accepts: texts enter, fields of a reply's request leave."""

from __future__ import annotations

from collections.abc import Mapping

from localai.errors import BadRequest

_NUMBERS = {"temperature": float, "top_p": float, "min_p": float, "top_k": int, "max_tokens": int, "seed": int}
_NUMBERS |= {"max_joules": float, "repeat_penalty": float}
_WORDS = {"policy": ("balanced", "fastest", "frugal"), "backend": ()}
NAMES = (*_NUMBERS, *_WORDS, "memory")


def options_text(options: Mapping[str, object]) -> str:
    """What is set in a chat, in one line."""
    known = ", ".join(f"{name} {_shown(options[name])}" for name in NAMES if name in options)
    return f"Set in this chat: {known}" if known else f"All is as usual. /set NAME VALUE sets {', '.join(NAMES)}."


def _shown(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def option_of(text: str) -> tuple[str, object | None]:
    """`temperature 0.2` as name and value; the value is None where it is `default`. Raises BadRequest."""
    name, _, value = text.partition(" ")
    value = value.strip()
    if name not in NAMES or not value:
        raise BadRequest(f"{text!r} sets nothing", f"write NAME VALUE, with one of {', '.join(NAMES)}")
    if value == "default":
        return name, None
    if name == "memory":
        return name, {"on": True, "off": False}.get(value, value)
    if name in _WORDS:
        if _WORDS[name] and value not in _WORDS[name]:
            raise BadRequest(f"{value!r} is no {name}", f"choose {', '.join(_WORDS[name])}")
        return name, value
    try:
        return name, _NUMBERS[name](value)
    except ValueError as error:
        raise BadRequest(f"{value!r} is no number", f"write {name} and a number, or {name} default") from error
