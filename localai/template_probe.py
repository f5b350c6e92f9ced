"""What a chat template can do, found out by rendering small conversations and looking at what comes out.

A compiled template enters, Capabilities leave. The probes are marked words that no template contains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from localai.errors import BadRequest, ModelBroken
from localai.jinja_sandbox import TemplateOverrun

Turn = dict[str, Any]
# Messages, tools and further variables to text.
Render = Callable[[list[Turn], list[Turn] | None, dict[str, Any]], str]

PROBE_DAY = date(2024, 1, 1)
LONG_ID, SHORT_ID = "call_0123456789abcdef01234567", "abcdefgh1"
_TOOLS: list[Turn] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "qxdescription",
            "parameters": {"type": "object", "properties": {"qxkey": {"type": "string", "description": "qxhelp"}}},
        },
    }
    for name in ("qxtool", "qxother")
]


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How the template wants calls: arguments as JSON text or as an object, ids of 9 characters or of any length."""

    arguments_as_text: bool
    short_ids: bool


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the template renders.

    `system`: a system message at the start; `late_system`: one further on; `repeats`: two messages in a row of one
    role; `assistant_first`: an assistant's message at the start. `tools`: the tools on offer; `calls`: an assistant's
    calls and their results, and how, else None; `several_calls`: more than one in a message; `results`: the role
    `tool` even so. `thinking_switch`: `enable_thinking` changes the text. `stable`: each message only adds to the text
    of those before it. `needs_tools`: it fails without a list of tools, so it is given an empty one.
    """

    system: bool
    late_system: bool
    repeats: bool
    assistant_first: bool
    tools: bool
    calls: CallStyle | None
    several_calls: bool
    results: bool
    thinking_switch: bool
    stable: bool
    needs_tools: bool


def probe(render: Render) -> Capabilities:
    """Find out what `render` can do.

    Raises ModelBroken where it cannot render a single question, or reaches for what is forbidden.
    """
    needs_tools = not _text(render, [_user("qxuser")]) and bool(_text(render, [_user("qxuser")], []))
    try:
        render([_user("qxuser")], [] if needs_tools else None, {})
    except BadRequest as error:
        raise ModelBroken(f"{error.message} (one question)", "get the model from another source") from error
    none: list[Turn] | None = [] if needs_tools else None

    def shows(words: str, turns: Sequence[Turn], tools: list[Turn] | None = none) -> bool:
        text = _text(render, list(turns), tools)
        return all(word in text for word in words.split())

    calls = _call_style(render)
    return Capabilities(
        system=shows("qxsystem qxuser", [_turn("system", "qxsystem"), _user("qxuser")]),
        late_system=_shows_in_order(render, none),
        repeats=shows("qxa qxb", [_user("qxa"), _user("qxb")])
        and shows("qxa qxb", [_user("a"), _reply("qxa"), _reply("qxb"), _user("c")]),
        assistant_first=shows("qxa qxb", [_reply("qxa"), _user("qxb")]),
        tools=shows("qxtool qxdescription qxkey", [_user("a")], _TOOLS),
        calls=calls,
        several_calls=calls is not None and shows("qxtool qxother qxfirst qxsecond", _two_calls(calls), _TOOLS),
        results=shows("qxresult qxafter", [_user("a"), _reply("b"), _result("qxresult", LONG_ID), _reply("qxafter")]),
        thinking_switch=_thinking(render, none, True) != _thinking(render, none, False),
        stable=_is_stable(render, none),
        needs_tools=needs_tools,
    )


def _shows_in_order(render: Render, tools: list[Turn] | None) -> bool:
    """Whether a later system message stands in its place: some templates move it to the front, or let it replace the
    first one, which would change the text of the messages before it."""
    early, late = _turn("system", "qxearly"), _turn("system", "qxlate")
    text = _text(render, [early, _user("qxuser"), _reply("b"), late, _user("c")], tools)
    places = [text.find(word) for word in ("qxearly", "qxuser", "qxlate")]
    return -1 not in places and places == sorted(places)


def _turn(role: str, content: str, **more: Any) -> Turn:
    return {"role": role, "content": content, **more}


def _user(content: str) -> Turn:
    return _turn("user", content)


def _reply(content: str, **more: Any) -> Turn:
    return _turn("assistant", content, **more)


def _result(content: str, call_id: str) -> Turn:
    return _turn("tool", content, tool_call_id=call_id, name="qxtool")


def _call(style: CallStyle, name: str = "qxtool", last: str = "") -> Turn:
    call_id = (SHORT_ID if style.short_ids else LONG_ID)[:-1] + (last or "1")
    arguments = '{"qxkey": "qxvalue"}' if style.arguments_as_text else {"qxkey": "qxvalue"}
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}


def _text(render: Render, turns: list[Turn], tools: list[Turn] | None = None, **more: Any) -> str:
    """The rendering, '' where it is refused or fails; a hostile template ends the probing."""
    try:
        return render(turns, tools, more)
    except TemplateOverrun:
        raise
    except (BadRequest, ModelBroken):
        return ""


def _call_style(render: Render) -> CallStyle | None:
    for short_ids in (False, True):
        for as_text in (False, True):
            style = CallStyle(as_text, short_ids)
            call = _call(style)
            turns = [
                _user("a"),
                _reply("", tool_calls=[call]),
                _result("qxresult", call["id"]),
                _reply("b"),
                _user("c"),
            ]
            text = _text(render, turns, _TOOLS).replace(" ", "")
            if not all(word in text for word in ("qxresult", "qxvalue")):
                continue
            # An object printed as Python, or text encoded once more, is the wrong kind of arguments.
            if "{'qxkey" not in text and '\\"qxkey' not in text and _shows_call(text):
                return style
    return None


def _shows_call(text: str) -> bool:
    """Whether the call itself is there, and not only the name among the tools on offer."""
    before = text[: text.index("qxvalue")]
    return "qxtool" in before[max(0, before.rfind("qxdescription")) :] or before.count("qxtool") > 1


def _two_calls(style: CallStyle) -> list[Turn]:
    first, second = _call(style, "qxtool", "1"), _call(style, "qxother", "2")
    for call, value in ((first, "qxfirst"), (second, "qxsecond")):
        arguments = f'{{"qxkey": "{value}"}}' if style.arguments_as_text else {"qxkey": value}
        call["function"]["arguments"] = arguments
    results = [_result("r1", first["id"]), _result("r2", second["id"])]
    return [_user("a"), _reply("", tool_calls=[first, second]), *results, _reply("b"), _user("c")]


def _thinking(render: Render, tools: list[Turn] | None, think: bool) -> str:
    return _text(render, [_user("a")], tools, **thinking_variables(think))


def thinking_variables(think: bool | None) -> dict[str, Any]:
    """The variables by which templates learn whether to think; none where nobody said."""
    return {} if think is None else {"enable_thinking": think, "thinking": think}


def _is_stable(render: Render, tools: list[Turn] | None) -> bool:
    turns = [_user("a"), _reply("b"), _user("c"), _reply("d"), _user("e")]
    texts = [_text(render, turns[:end], tools, add_generation_prompt=False) for end in range(1, len(turns) + 1)]
    return all(texts) and all(later.startswith(text) for text, later in pairwise(texts))
