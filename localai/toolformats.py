"""How each family of models writes tool calls and reasoning: a table, and which entry a model takes.

A chat template's source and an architecture name enter; formats leave. Parsing is `toolcalls`, constraining
`toolgrammar`. Control tokens that belong to a format are listed in `markers`: the engine spells those out in the
text it yields, and hides all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from localai.messages import ToolCall

Syntax = Literal["object", "named", "parameters", "python", "channels"]


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """Text between `open` and `close` before the answer. `wrappers` may surround the answer and are dropped."""

    name: str
    open: str
    close: str
    wrappers: tuple[str, ...] = ()
    more_markers: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open.strip(), self.close.strip(), *self.wrappers, *self.more_markers)


@dataclass(frozen=True, slots=True)
class Layout:
    """How calls are written: `start`, then for each call `call` (NAME stands for its name), its arguments and `end`,
    with `between` in between, then `stop`. Where arguments are not one JSON object, each is written as `key` (KEY
    stands for its name), value, `value_end`, with `comma` in between.
    """

    call: str
    end: str = ""
    start: str = ""
    stop: str = ""
    between: str = ""
    key: str = ""
    value_end: str = ""
    comma: str = ""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One family's syntax.

    `openers` begin a block of calls, `closers` may follow a call, and so may the characters `between`.
    `object`: a JSON object with name and arguments; `named`: `header` (a regular expression with the group `name`),
    then the arguments as JSON; `parameters`: XML-like tags; `python`: a list of Python calls; `channels`: Harmony's
    messages. `bare`: an answer that starts with a JSON object naming a tool is a call. `short_ids`: call ids are 9
    letters and digits. `parallel`: several calls fit into one answer.
    """

    name: str
    syntax: Syntax
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    layout: Layout
    markers: tuple[str, ...]
    header: str = ""
    between: str = ""
    bare: bool = False
    short_ids: bool = False
    parallel: bool = True


_JSON_TAGS = Layout(call='<tool_call>\n{"name": "NAME", "arguments": ', end="}\n</tool_call>", between="\n")
_TAGS = ("<tool_call>", "</tool_call>")
TOOL_CODE = "```tool_code\n"

HERMES = ToolFormat("hermes", "object", ("<tool_call>", "<function="), ("</tool_call>",), _JSON_TAGS, _TAGS, bare=True)
GENERIC = ToolFormat("generic", "object", ("<tool_call>", TOOL_CODE), ("</tool_call>",), _JSON_TAGS, _TAGS, bare=True)
QWEN_XML = ToolFormat(
    "qwen3-coder",
    "parameters",
    ("<tool_call>", "<function="),
    ("</tool_call>",),
    Layout(
        call="<tool_call>\n<function=NAME>\n",
        end="</function>\n</tool_call>",
        between="\n",
        key="<parameter=KEY>\n",
        value_end="\n</parameter>\n",
    ),
    _TAGS,
)
LLAMA3 = ToolFormat(
    "llama3",
    "object",
    ("<|python_tag|>",),
    (),
    Layout(call='{"name": "NAME", "parameters": ', end="}"),
    ("<|python_tag|>",),
    between=";",
    bare=True,
    parallel=False,
)
MISTRAL_LIST = ToolFormat(
    "mistral-list",
    "object",
    ("[TOOL_CALLS]",),
    (),
    Layout(call='{"name": "NAME", "arguments": ', end="}", start="[TOOL_CALLS][", stop="]", between=", "),
    ("[TOOL_CALLS]",),
    between="[,]",
    short_ids=True,
)
MISTRAL = ToolFormat(
    "mistral",
    "named",
    ("[TOOL_CALLS]",),
    (),
    Layout(call="[TOOL_CALLS]NAME[ARGS]"),
    ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    header=r"\s*(?P<name>[\w.\-]+)\s*(\[CALL_ID\]\w*)?\s*(\[ARGS\])?\s*",
    short_ids=True,
)
GRANITE3 = ToolFormat(
    "granite3",
    "object",
    ("<|tool_call|>", "<tool_call>"),
    ("</tool_call>",),
    Layout(call='{"name": "NAME", "arguments": ', end="}", start="<|tool_call|>[", stop="]", between=", "),
    ("<|tool_call|>", *_TAGS),
    between="[,]",
)
_DEEPSEEK = {
    "syntax": "named",
    "openers": ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    "closers": ("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    "markers": (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    "header": r"\s*(<｜tool▁call▁begin｜>)?\s*(function<｜tool▁sep｜>)?"
    r"(?P<name>[\w.\-]+)(<｜tool▁sep｜>)?\s*(```json)?\s*",
}
DEEPSEEK_R1 = ToolFormat(
    name="deepseek-r1",
    layout=Layout(
        call="<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
        end="\n```<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>",
        stop="<｜tool▁calls▁end｜>",
        between="\n",
    ),
    **_DEEPSEEK,  # type: ignore[arg-type]
)
DEEPSEEK = ToolFormat(
    name="deepseek",
    layout=Layout(
        call="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>",
        end="<｜tool▁call▁end｜>",
        start="<｜tool▁calls▁begin｜>",
        stop="<｜tool▁calls▁end｜>",
    ),
    **_DEEPSEEK,  # type: ignore[arg-type]
)
LFM2 = ToolFormat(
    "lfm2",
    "python",
    ("<|tool_call_start|>",),
    ("<|tool_call_end|>",),
    Layout(
        call="NAME(",
        end=")",
        start="<|tool_call_start|>[",
        stop="]<|tool_call_end|>",
        between=", ",
        key="KEY=",
        comma=", ",
    ),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
)
_CHANNEL_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")
HARMONY = ToolFormat(
    "harmony",
    "channels",
    (),
    (),
    Layout(call="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>"),
    _CHANNEL_TOKENS,
    parallel=False,
)

THINK = ReasoningFormat("think", "<think>", "</think>")
GRANITE_THINK = ReasoningFormat("granite", "<think>", "</think>", wrappers=("<response>", "</response>"))
MISTRAL_THINK = ReasoningFormat("mistral", "[THINK]", "[/THINK]")
GEMMA_THOUGHT = ReasoningFormat("gemma", "<|channel>thought\n", "<channel|>")
CHANNELS = ReasoningFormat("harmony", "<|channel|>analysis<|message|>", "<|end|>", more_markers=_CHANNEL_TOKENS)

# The first entry all of whose strings stand in the template's source, and none of whose excluded ones, applies.
_BY_SOURCE: tuple[tuple[ToolFormat, tuple[str, ...], tuple[str, ...]], ...] = (
    (HARMONY, ("<|channel|>", "<|message|>", "to=functions."), ()),
    (HARMONY, ("<|channel|>", "<|message|>", "functions.", "to="), ()),
    (MISTRAL, ("[TOOL_CALLS]", "[ARGS]"), ()),
    (MISTRAL_LIST, ("[TOOL_CALLS]",), ()),
    (DEEPSEEK_R1, ("<｜tool▁calls▁begin｜>", "```json"), ()),
    (DEEPSEEK, ("<｜tool▁calls▁begin｜>",), ()),
    (QWEN_XML, ("<tool_call>", "<function=", "<parameter="), ("<seed:",)),
    (GRANITE3, ("<|tool_call|>", "<|start_of_role|>"), ()),
    (LFM2, ("<|tool_list_start|>",), ()),
    (LFM2, ("<|tool_call_start|>", "List of tools: "), ()),
    (HERMES, ("<tool_call>", "arguments"), ("<arg_key>", "<invoke", "<tool_calls>", "<|tool_call>")),
    (LLAMA3, ("<|start_header_id|>", "ipython", '"parameters": '), ()),
)
_REASONING_BY_SOURCE: tuple[tuple[ReasoningFormat, tuple[str, ...]], ...] = (
    (CHANNELS, ("<|channel|>", "<|message|>", "analysis")),
    (MISTRAL_THINK, ("[THINK]",)),
    (GRANITE_THINK, ("<think>", "<response>", "<|start_of_role|>")),
    (GEMMA_THOUGHT, ("<|channel>thought",)),
    (THINK, ("</think>",)),
)
_REASONING_BY_ARCHITECTURE = {"gpt-oss": CHANNELS}
_BY_ARCHITECTURE = {"gpt-oss": HARMONY}


def detect(template_source: str, architecture: str = "") -> tuple[ToolFormat, ReasoningFormat | None]:
    """The formats that a model with this chat template writes; GENERIC and None where the source names none."""
    tools = _BY_ARCHITECTURE.get(architecture, GENERIC)
    for entry, present, absent in _BY_SOURCE:
        if all(text in template_source for text in present) and not any(text in template_source for text in absent):
            tools = entry
            break
    for reasoning, present in _REASONING_BY_SOURCE:
        if all(text in template_source for text in present):
            return tools, reasoning
    return tools, _REASONING_BY_ARCHITECTURE.get(architecture)


def spell(tool_format: ToolFormat, calls: Sequence[ToolCall]) -> str:
    """The text that a model of this family writes to make `calls`."""
    layout = tool_format.layout
    return layout.start + layout.between.join(_spell(layout, call) for call in calls) + layout.stop


def _spell(layout: Layout, call: ToolCall) -> str:
    arguments = json.loads(call.arguments)
    if layout.key:
        body = layout.comma.join(
            layout.key.replace("KEY", key) + _value(layout, value) + layout.value_end
            for key, value in arguments.items()
        )
    else:
        body = json.dumps(arguments, ensure_ascii=False)
    return layout.call.replace("NAME", call.name) + body + layout.end


def _value(layout: Layout, value: Any) -> str:
    if layout.comma and isinstance(value, bool | None):
        return repr(value)
    return value if isinstance(value, str) and not layout.comma else json.dumps(value, ensure_ascii=False)
