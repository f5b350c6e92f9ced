"""A chat request and what its engine says of its model in, the prompt's text in pieces out, by the model's template.

A template is the model's own program. Short conversations are rendered at once, within a budget that the event loop can
bear; what does not fit into that goes to a thread, where it has its whole budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from backends.contract import EngineInfo
from localai.jinja_sandbox import TemplateOverrun
from localai.messages import Message, Tool, TurnRequest
from localai.quoting import Piece, quote
from localai.templates import ChatTemplate

BRIEF = 4096
"""Characters of a conversation that is rendered at once: with a usual template, a third of a millisecond."""
_MOST = 16
"""Templates that are kept compiled."""


@dataclass(slots=True)
class _Known:
    """`brief` until a short conversation took too long."""

    template: ChatTemplate
    brief: bool = True


_known: dict[tuple[str | None, str, str, str], _Known] = {}


async def rendered(
    request: TurnRequest, tools: Sequence[Tool], info: EngineInfo, system: str | None
) -> tuple[ChatTemplate, list[Piece]]:
    """The template, and the prompt that it makes; `system` is said first where the request has no such message.

    Raises what `ChatTemplate` and its `render` raise.
    """
    known = await _compiled(info)
    template = known.template
    if known.brief and _characters(request, tools) <= BRIEF:
        try:
            return template, _pieces(template, request, tools, info, system, brief=True)
        except TemplateOverrun:
            known.brief = False
    return template, await asyncio.to_thread(_pieces, template, request, tools, info, system, brief=False)


async def is_brief(info: EngineInfo) -> bool:
    """Whether short conversations with this model are rendered at once. Raises ModelBroken."""
    return (await _compiled(info)).brief


async def _compiled(info: EngineInfo) -> _Known:
    key = info.chat_template, info.bos, info.eos, info.architecture
    if key not in _known:
        made = _Known(await asyncio.to_thread(_compile, info))
        while len(_known) >= _MOST:
            del _known[next(iter(_known))]
        _known[key] = made
    return _known[key]


def _compile(info: EngineInfo) -> ChatTemplate:
    if not info.chat_template:
        return ChatTemplate.fallback(info.eos)
    return ChatTemplate(info.chat_template, info.bos, info.eos, architecture=info.architecture)


def _characters(request: TurnRequest, tools: Sequence[Tool]) -> int:
    """About how much the template has to write; every tool counts as much as a long one does."""
    said = sum(
        len(m.content) + len(m.reasoning) + sum(len(c.arguments) for c in m.tool_calls) for m in request.messages
    )
    return said + 64 * len(request.messages) + BRIEF * len(tools) // 4


def _pieces(
    template: ChatTemplate,
    request: TurnRequest,
    tools: Sequence[Tool],
    info: EngineInfo,
    system: str | None,
    *,
    brief: bool,
) -> list[Piece]:
    messages, quotes = quote(request.messages, info.control_tokens)
    if system is not None and all(message.role != "system" for message in messages):
        messages = [Message("system", system), *messages]
    return quotes.pieces(template.render(messages, tools=tools, think=request.think, brief=brief))
