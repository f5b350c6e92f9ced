"""Messages to the prompt text that a model was trained on, by the model's own Jinja template.

Where the template cannot express something (tools, a system message, two turns of one role), the conversation is
reshaped first; the properties say what was found. Knows nothing of tokens: the text may begin with the BOS token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from localai.errors import BadRequest
from localai.jinja_budget import BRIEF_SECONDS, BRIEF_SPARE, SPARE
from localai.jinja_sandbox import RENDER_SECONDS, Program
from localai.messages import Message, Tool, ToolCall
from localai.template_probe import PROBE_DAY, CallStyle, Capabilities, Turn, probe, thinking_variables
from localai.toolformats import CHANNELS, GENERIC, ReasoningFormat, ToolFormat, detect
from localai.turns import describe, instruction, paired, shaped

_PROBE_SECONDS = 0.5
# Some templates look at all messages for each message: 2,000 of them took 10 s of CPU time with the slowest one.
_SECONDS_PER_TURN = 0.01
_MOST_SECONDS = 30.0
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_FALLBACK = """\
{%- for message in messages -%}
{{ message.role | capitalize }}: {{ message.content }}{{ eos_token if message.role == 'assistant' }}

{% endfor -%}
{%- if add_generation_prompt %}Assistant:{% endif -%}
"""


class ChatTemplate:
    """The chat template of one model. `bos` and `eos` are the texts of its control tokens.

    Raises ModelBroken where the template cannot render even one question, or is hostile.
    """

    def __init__(self, source: str, bos: str, eos: str, *, architecture: str = "") -> None:
        self.source = source
        self.is_fallback = False
        self._bos = bos
        self._eos = eos
        self._program = Program(source)
        self._formats = detect(source, architecture)
        self.capabilities: Capabilities = probe(self._probe)
        self.opens_reasoning = self.starts_in_reasoning(self._run([Turn(role="user", content="a")], self._no_tools))

    @classmethod
    def fallback(cls, eos: str) -> ChatTemplate:
        """For a model that brings no template: roles and texts as a plain transcript. `is_fallback` tells."""
        template = cls(_FALLBACK, "", eos)
        template.is_fallback = True
        return template

    @property
    def tool_mode(self) -> Literal["native", "generic"]:
        """`native`: the template tells the model of its tools; `generic`: an instruction of ours does."""
        return "native" if self.capabilities.tools and self._formats[0] is not GENERIC else "generic"

    @property
    def tool_format(self) -> ToolFormat:
        """The syntax in which this model is asked to call tools."""
        return self._formats[0] if self.tool_mode == "native" else GENERIC

    @property
    def reasoning_format(self) -> ReasoningFormat | None:
        """How the model marks what it thinks, None where it does not."""
        return self._formats[1]

    @property
    def supports_tools(self) -> bool:
        return self.tool_mode == "native"

    @property
    def supports_system(self) -> bool:
        return self.capabilities.system

    @property
    def supports_thinking_switch(self) -> bool:
        """Whether `think` changes the prompt; for Harmony it chooses how much, never none."""
        return self.capabilities.thinking_switch or self._formats[1] is CHANNELS

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside a reasoning block, so that the answer starts in it."""
        style = self.reasoning_format
        return style is not None and style is not CHANNELS and prompt.rstrip().endswith(style.open.strip())

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = True,
        think: bool | None = None,
        today: date | None = None,
        brief: bool = False,
    ) -> str:
        """The prompt's text. Equal arguments give equal text; the day is all that templates learn of the time.

        `think` None leaves thinking to the template; `brief` allows only what an event loop can wait for. Raises
        BadRequest, with the template's own words, for a conversation that it refuses.
        """
        if not messages:
            raise BadRequest("there are no messages", "send at least one", param="messages")
        turns = [self._turn(message) for message in self._shaped(messages, tools)]
        native = [describe(tool) for tool in tools] if self.supports_tools else []
        more: dict[str, Any] = {**thinking_variables(think), "add_generation_prompt": add_generation_prompt}
        if think is False and self._formats[1] is CHANNELS:
            more["reasoning_effort"] = "low"
        seconds = BRIEF_SECONDS if brief else min(_MOST_SECONDS, RENDER_SECONDS + _SECONDS_PER_TURN * len(turns))
        spare = BRIEF_SPARE if brief else SPARE
        return self._run(turns, native or self._no_tools, more, today or date.today(), seconds, spare)

    @property
    def _no_tools(self) -> list[Turn] | None:
        return [] if self.capabilities.needs_tools else None

    def _shaped(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        can, generic = self.capabilities, not self.supports_tools
        as_text = generic or can.calls is None
        return shaped(
            paired(messages),
            can,
            note=instruction(tools) if tools and generic else "",
            written=self.tool_format if as_text else None,
            results_as_user=generic or (as_text and not can.results),
        )

    def _turn(self, message: Message) -> Turn:
        turn = Turn(role=message.role, content=message.content)
        style = self.capabilities.calls or CallStyle(arguments_as_text=False, short_ids=False)
        if message.role == "tool":
            turn["tool_call_id"] = _call_id(message.tool_call_id or "", style)
            turn["name"] = message.name
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, style) for call in message.tool_calls]
        if message.reasoning:
            turn["reasoning_content"] = turn["reasoning"] = message.reasoning
            # Harmony's template takes either content or thinking beside a call, and refuses both.
            if not (message.content and message.tool_calls):
                turn["thinking"] = message.reasoning
        return turn

    def _probe(self, turns: list[Turn], tools: list[Turn] | None, more: dict[str, Any]) -> str:
        return self._run(turns, tools, more, PROBE_DAY, _PROBE_SECONDS)

    def _run(
        self,
        turns: list[Turn],
        tools: list[Turn] | None,
        more: dict[str, Any] | None = None,
        today: date = PROBE_DAY,
        seconds: float = RENDER_SECONDS,
        spare: int = SPARE,
    ) -> str:
        variables = {
            "messages": turns,
            "tools": tools,
            "documents": None,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "date_string": today.strftime("%d %b %Y"),
            "add_generation_prompt": True,
            **(more or {}),
        }
        return self._program.run(variables, today=today, seconds=seconds, spare=spare)


def _call(call: ToolCall, style: CallStyle) -> Turn:
    arguments = _arguments(call)
    function = {"name": call.name, "arguments": json.dumps(arguments) if style.arguments_as_text else arguments}
    return {"type": "function", "id": _call_id(call.id, style), "function": function}


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        value = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        hint = "send the arguments as the model gave them: a JSON object, as text"
        raise BadRequest(f"the arguments of a call of {call.name!r} are no JSON object", hint, param="messages")
    return value


def _call_id(call_id: str, style: CallStyle) -> str:
    """`call_id`, made into 9 letters and digits where the template insists on that; always the same ones."""
    if not style.short_ids or (len(call_id) == 9 and call_id.isalnum() and call_id.isascii()):
        return call_id
    return "".join(_BASE36[byte % 36] for byte in hashlib.sha256(call_id.encode()).digest()[:9])
