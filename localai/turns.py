"""A conversation in the shape that one chat template accepts, changed no more than that template demands.

Messages and what the template can do enter; messages leave. The changes depend on the messages up to each place
alone, so a longer conversation begins like a shorter one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from localai.errors import BadRequest
from localai.messages import Message, Tool
from localai.template_probe import Capabilities
from localai.toolformats import ToolFormat, spell

_INSTRUCTION = """\
You may call functions to help with the request. These are the functions, one JSON object per line:
<tools>
{tools}
</tools>

To call a function, write its name and its arguments as JSON between these tags, once for each call:
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>

Results come back between <tool_response> and </tool_response>. Where no function helps, answer in plain text."""


def instruction(tools: Sequence[Tool]) -> str:
    """What tells a model about `tools` whose template cannot."""
    lines = [json.dumps(describe(tool)["function"], ensure_ascii=False) for tool in tools]
    return _INSTRUCTION.format(tools="\n".join(lines))


def describe(tool: Tool) -> dict[str, Any]:
    """A tool as templates expect it."""
    parameters = {"type": "object", "properties": {}, **tool.parameters}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def paired(messages: Sequence[Message]) -> list[Message]:
    """`messages` with every tool result behind its call: in the order of the calls, with id and name filled in.

    Raises BadRequest for a result that answers no call.
    """
    out: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        if message.role == "tool":
            raise BadRequest("a tool message answers no call", "put it behind the assistant's call", param="messages")
        out.append(message)
        results = []
        while message.tool_calls and place < len(messages) and messages[place].role == "tool":
            results.append(messages[place])
            place += 1
        out += _in_call_order(message, results)
    return out


def _in_call_order(message: Message, results: Sequence[Message]) -> list[Message]:
    order = {call.id: number for number, call in enumerate(message.tool_calls)}
    open_ids = [call.id for call in message.tool_calls if call.id not in {result.tool_call_id for result in results}]
    placed: list[tuple[int, Message]] = []
    for result in results:
        call_id = result.tool_call_id if result.tool_call_id is not None else next(iter(open_ids), None)
        if call_id not in order:
            raise BadRequest(
                f"a tool message answers the call {call_id!r}, which the assistant did not make",
                "send the assistant's message with its tool_calls before the results",
                param="messages",
            )
        if call_id in open_ids:
            open_ids.remove(call_id)
        number = order[call_id]
        name = result.name or message.tool_calls[number].name
        placed.append((number, replace(result, tool_call_id=call_id, name=name)))
    return [result for _, result in sorted(placed, key=lambda pair: pair[0])]


def shaped(
    messages: Sequence[Message], can: Capabilities, *, note: str, written: ToolFormat | None, results_as_user: bool
) -> list[Message]:
    """`messages`, paired before, as the template takes them.

    `note` joins the system message. `written` is the syntax in which calls are written into the content, None to leave
    them to the template; `results_as_user` turns tool results into the user's turns.
    """
    out = list(messages)
    if written is not None:
        out = [_call_as_text(message, written) for message in out]
    if results_as_user:
        out = _results_as_user(out)
    out = _one_system(out, note)
    if not can.late_system:
        out = [replace(m, role="user") if m.role == "system" and i else m for i, m in enumerate(out)]
    if not can.system and out and out[0].role == "system":
        out[0] = replace(out[0], role="user")
        out = _merged(out[:2]) + out[2:]
    if not can.assistant_first:
        out = _user_first(out)
    if not can.several_calls:
        out = [part for message in _grouped(out) for part in message]
    return out if can.repeats else _merged(out)


def _call_as_text(message: Message, written: ToolFormat) -> Message:
    if not message.tool_calls:
        return message
    text = spell(written, message.tool_calls)
    return replace(message, content=f"{message.content}\n{text}" if message.content else text, tool_calls=())


def _results_as_user(messages: Iterable[Message]) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        if message.role != "tool":
            out.append(message)
            continue
        text = f"<tool_response>\n{message.content}\n</tool_response>"
        if out and out[-1].tool_call_id is not None:
            out[-1] = replace(out[-1], content=f"{out[-1].content}\n{text}")
        else:
            out.append(Message("user", text, tool_call_id=message.tool_call_id or ""))
    return out


def _one_system(messages: list[Message], note: str) -> list[Message]:
    count = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    parts = [message.content for message in messages[:count]] + ([note] if note else [])
    return ([Message("system", "\n\n".join(parts))] if parts else []) + messages[count:]


def _user_first(messages: list[Message]) -> list[Message]:
    first = 1 if messages and messages[0].role == "system" else 0
    if len(messages) > first and messages[first].role == "assistant":
        return [*messages[:first], Message("user", "(continued)"), *messages[first:]]
    return messages


def _grouped(messages: list[Message]) -> Iterable[list[Message]]:
    """Messages with several calls taken apart: each call with its own result."""
    results = {message.tool_call_id: message for message in messages if message.role == "tool"}
    taken: set[int] = set()
    for message in messages:
        if len(message.tool_calls) < 2:
            if id(message) not in taken:
                yield [message]
            continue
        parts: list[Message] = []
        for number, call in enumerate(message.tool_calls):
            said = message if number == 0 else replace(message, content="", reasoning="")
            parts.append(replace(said, tool_calls=(call,)))
            if call.id in results:
                parts.append(results[call.id])
                taken.add(id(results[call.id]))
        yield parts


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message; calls and their results stay apart."""
    out: list[Message] = []
    for message in messages:
        last = out[-1] if out else None
        if last and last.role == message.role != "tool" and not last.tool_calls:
            content = "\n\n".join(filter(None, (last.content, message.content)))
            reasoning = "\n\n".join(filter(None, (last.reasoning, message.reasoning)))
            out[-1] = replace(message, content=content, reasoning=reasoning)
        else:
            out.append(message)
    return out
