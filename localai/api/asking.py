"""What a request's headers ask for in every dialect alike: for which answer it is, how urgent, and with which tools.

A dialect's turn and its HTTP request enter, the events of the answer leave. Knows no dialect.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import cast, get_args

from starlette.requests import Request

from backends.contract import Priority
from localai.auto.answering import answer
from localai.errors import BadRequest, Forbidden
from localai.messages import TurnEvent, TurnRequest
from localai.tools.using import using_tools
from localai.turn import Parts

PARENT, PRIORITY, TOOLS = "x-localai-parent", "x-localai-priority", "x-localai-tools"
_PREFIX = re.compile(r".*[-_]")
_LONGEST = 64


def asked(turn: TurnRequest, request: Request, parts: Parts) -> AsyncGenerator[TurnEvent, None]:
    """The events of one answer, as `auto.answering.answer`; raises what that does.

    `x-localai-parent` is the id of the answer for which this is asked, `x-localai-priority` one of `Priority`,
    `x-localai-tools` names tools or servers of `tools.toml`, or `all`: those that the user always allows are called,
    as nobody could be asked here. Raises BadRequest, or Forbidden for tools without the user's own rights.
    """
    headers = request.headers
    if parent := headers.get(PARENT):
        turn = replace(turn, parent=_PREFIX.sub("", parent)[:_LONGEST])
    if priority := headers.get(PRIORITY):
        if priority not in get_args(Priority):
            raise BadRequest(f"{PRIORITY} is {priority!r}", f"one of: {', '.join(get_args(Priority))}", param=PRIORITY)
        turn = replace(turn, priority=cast(Priority, priority))
    tools = headers.get(TOOLS)
    if tools is None:
        return answer(turn, parts)
    if not turn.trusted:
        hint = "connect to run/localai.sock in the data folder, or use a token of scope admin"
        raise Forbidden("the tools of tools.toml act with the user's own rights", hint)
    if turn.kind != "chat":
        raise BadRequest("tools are for chats", f"leave {TOOLS} out", param=TOOLS)
    names = None if tools == "all" else [name for each in tools.split(",") if (name := each.strip())]
    return using_tools(turn, parts.toolbox, names, lambda made: answer(made, parts), asks=False)
