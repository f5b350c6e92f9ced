"""Answers as models write them, whole and in pieces, turned into content, reasoning and calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localai.messages import Tool, ToolCall, ToolCallDelta
from localai.toolcalls import Content, OutputParser, Piece, Reasoning
from localai.toolformats import (
    CHANNELS,
    DEEPSEEK,
    DEEPSEEK_R1,
    GEMMA_THOUGHT,
    GENERIC,
    GRANITE3,
    GRANITE_THINK,
    HARMONY,
    HERMES,
    LFM2,
    LLAMA3,
    MISTRAL,
    MISTRAL_LIST,
    MISTRAL_THINK,
    QWEN_XML,
    THINK,
    ReasoningFormat,
    ToolFormat,
    detect,
    spell,
)

FORMATS = [HERMES, GENERIC, QWEN_XML, LLAMA3, MISTRAL_LIST, MISTRAL, GRANITE3, DEEPSEEK, DEEPSEEK_R1, LFM2, HARMONY]
TOOLS = [
    Tool(
        "get_weather",
        "",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "where": {"type": "object"}},
            "required": ["city"],
        },
    ),
    Tool("now", "", {}),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer taken apart: content, reasoning, complete calls, and how many broken ones there were."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, object], ...] = ()
    broken: int = 0


def parse(
    style: ToolFormat | None,
    pieces: Sequence[str],
    *,
    reasoning: ReasoningFormat | None = None,
    inside: bool = False,
    forced: bool = False,
    tools: Sequence[Tool] = TOOLS,
) -> tuple[list[Piece], OutputParser]:
    parser = OutputParser(style, reasoning=reasoning, starts_in_reasoning=inside, tools=tools, forced=forced)
    out = [piece for text in pieces for piece in parser.feed(text)]
    return [*out, *parser.close()], parser


def collect(out: Sequence[Piece], parser: OutputParser) -> Answer:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for piece in out:
        if isinstance(piece, ToolCallDelta):
            assert (piece.name is None) == (piece.id is None) == (piece.index in names)
            names.setdefault(piece.index, piece.name or "")
            arguments[piece.index] = arguments.get(piece.index, "") + piece.arguments
    whole = [index for index in names if index not in parser.broken]
    assert parser.calls == len(whole)
    calls = tuple((names[index], json.loads(arguments[index])) for index in whole)
    content = "".join(piece.text for piece in out if isinstance(piece, Content))
    thought = "".join(piece.text for piece in out if isinstance(piece, Reasoning))
    return Answer(content, thought, calls, len(parser.broken))


def read(style: ToolFormat | None, text: str, **how: object) -> Answer:
    return collect(*parse(style, [text], **how))  # type: ignore[arg-type]


PARIS = ("get_weather", {"city": "Paris"})
NOW = ("now", {})
H = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CUT = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par'

CASES: dict[str, tuple[ToolFormat | None, str, dict[str, object], Answer]] = {
    "plain": (HERMES, "Hi there. \n", {}, Answer("Hi there. \n")),
    "no format": (None, H, {}, Answer(H)),
    "no tools": (HERMES, H, {"tools": []}, Answer(H)),
    "hermes": (HERMES, "Let me see.\n" + H, {}, Answer("Let me see.", "", (PARIS,))),
    "hermes on one line": (HERMES, H.replace("\n", ""), {}, Answer("", "", (PARIS,))),
    "hermes twice": (HERMES, H + "\n" + H + "\n", {}, Answer("", "", (PARIS, PARIS))),
    "hermes twice in one block": (
        HERMES,
        '<tool_call>{"name": "now", "arguments": {}}\n{"name": "now"}</tool_call>',
        {},
        Answer("", "", (NOW, NOW)),
    ),
    "hermes and more text": (HERMES, f"A\n{H}\nB", {}, Answer("A\nB", "", (PARIS,))),
    "hermes unclosed": (HERMES, H.removesuffix("\n</tool_call>"), {}, Answer("", "", (PARIS,))),
    "hermes without tags": (HERMES, '{"name": "now", "arguments": {}}', {}, Answer("", "", (NOW,))),
    "hermes writes XML": (HERMES, "<tool_call>\n<function=now>\n</function>\n</tool_call>", {}, Answer("", "", (NOW,))),
    "arguments first": (
        HERMES,
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
        {},
        Answer("", "", (PARIS,)),
    ),
    "arguments in a string": (
        HERMES,
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        {},
        Answer("", "", (PARIS,)),
    ),
    "arguments null": (HERMES, '<tool_call>{"name": "now", "arguments": null}</tool_call>', {}, Answer("", "", (NOW,))),
    "arguments that are a list": (
        HERMES,
        '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
        {},
        Answer('<tool_call>{"name": "now", "arguments": [1]}</tool_call>', broken=1),
    ),
    "nested function": (
        HERMES,
        '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>',
        {},
        Answer("", "", (NOW,)),
    ),
    "slips put right": (
        HERMES,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\\\'c\\d", "days": True, "x": '
        "[1, ],}}</tool_call>",
        {},
        Answer("", "", (("get_weather", {"city": "a\nb'c\\d", "days": True, "x": [1]}),)),
    ),
    "values of all kinds": (
        HERMES,
        '<tool_call>{"name": "now", "arguments": {"a": [-1.5e3, "é\\u00e9\\n", {"b": null}], "": false}}</tool_call>',
        {},
        Answer("", "", (("now", {"a": [-1500.0, "éé\n", {"b": None}], "": False}),)),
    ),
    "tag in a sentence": (HERMES, "Use <tool_call> tags.", {}, Answer("Use <tool_call> tags.")),
    "tag in a sentence, then a call": (
        HERMES,
        f"Use <tool_call> tags. {H}",
        {},
        Answer("Use <tool_call> tags.", "", (PARIS,)),
    ),
    "not JSON": (
        HERMES,
        "<tool_call>{'name': 'now'}</tool_call>",
        {},
        Answer("<tool_call>{'name': 'now'}</tool_call>"),
    ),
    "empty": (HERMES, "<tool_call></tool_call>", {}, Answer("<tool_call></tool_call>")),
    "cut before the name": (HERMES, '<tool_call>\n{"na', {}, Answer('<tool_call>\n{"na')),
    "cut in the arguments": (HERMES, "Yes. " + CUT, {}, Answer("Yes." + CUT, broken=1)),
    "broken, then whole": (
        HERMES,
        '<tool_call>{"name": "now", "arguments": {oops}}</tool_call>' + H,
        {},
        Answer('<tool_call>{"name": "now", "arguments": {oops}}</tool_call>', "", (PARIS,), 1),
    ),
    "part of a tag at the end": (HERMES, "a <tool_c", {}, Answer("a <tool_c")),
    "qwen3-coder": (
        QWEN_XML,
        'Sure.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nPa"ris\n</x>\n</parameter>\n'
        '<parameter=days>\n3\n</parameter>\n<parameter=where>\n{"a": 1}\n</parameter>\n'
        "<parameter=new>\nTrue\n</parameter>\n</function>\n</tool_call>",
        {},
        Answer("Sure.", "", (("get_weather", {"city": 'Pa"ris\n</x>', "days": 3, "where": {"a": 1}, "new": True}),)),
    ),
    "qwen3-coder without the outer tag": (QWEN_XML, "<function=now>\n</function>", {}, Answer("", "", (NOW,))),
    "qwen3-coder cut": (
        QWEN_XML,
        "<function=get_weather>\n<parameter=city>\nPar",
        {},
        Answer("<function=get_weather>\n<parameter=city>\nPar", broken=1),
    ),
    "llama3": (LLAMA3, '{"name": "get_weather", "parameters": {"city": "Paris"}}', {}, Answer("", "", (PARIS,))),
    "llama3 with its tag": (
        LLAMA3,
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
        {},
        Answer("", "", (NOW, NOW)),
    ),
    "llama3 built-in tool": (LLAMA3, '<|python_tag|>f.call(q="x")', {}, Answer('<|python_tag|>f.call(q="x")')),
    "llama3 answers in JSON": (LLAMA3, '{"name": "Paris", "people": 2}', {}, Answer('{"name": "Paris", "people": 2}')),
    "llama3 forced": (LLAMA3, '{"name": "x", "parameters": {}}', {"forced": True}, Answer("", "", (("x", {}),))),
    "mistral list": (
        MISTRAL_LIST,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abc"}, '
        '{"name": "now", "arguments": {}}]',
        {},
        Answer("", "", (PARIS, NOW)),
    ),
    "mistral": (
        MISTRAL,
        'Ok.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
        {},
        Answer("Ok.", "", (PARIS, NOW)),
    ),
    "mistral without arguments": (MISTRAL, "[TOOL_CALLS]now", {}, Answer("[TOOL_CALLS]now")),
    "granite": (GRANITE3, '<|tool_call|>[{"name": "now", "arguments": {}}]', {}, Answer("", "", (NOW,))),
    "deepseek": (
        DEEPSEEK,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        {},
        Answer("", "", (PARIS, NOW)),
    ),
    "deepseek-r1": (
        DEEPSEEK_R1,
        "ok</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        {"reasoning": THINK, "inside": True},
        Answer("", "ok", (PARIS,)),
    ),
    "lfm2": (
        LFM2,
        "<|tool_call_start|>[get_weather(city='Paris'), now()]<|tool_call_end|>Wait.",
        {},
        Answer("Wait.", "", (PARIS, NOW)),
    ),
    "lfm2 with a computed argument": (
        LFM2,
        "<|tool_call_start|>[now(x=open('f'))]<|tool_call_end|>",
        {},
        Answer("<|tool_call_start|>[now(x=open('f'))]<|tool_call_end|>"),
    ),
    "tool_code": (
        GENERIC,
        '```tool_code\nprint(get_weather(city="Paris"))\n```',
        {},
        Answer("", "", (PARIS,)),
    ),
    "code that is none": (GENERIC, "```python\nnow()\n```", {}, Answer("```python\nnow()\n```")),
    "harmony": (
        HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        {"reasoning": CHANNELS},
        Answer("Let me look.", "Hm.", (PARIS,)),
    ),
    "harmony, recipient first": (
        HARMONY,
        " to=functions.now<|channel|>commentary json<|message|>{}",
        {"reasoning": CHANNELS},
        Answer("", "", (NOW,)),
    ),
    "harmony answers": (
        None,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>.<|return|>",
        {"reasoning": CHANNELS},
        Answer("Hi <b>.", "Hm."),
    ),
    "harmony, two messages": (
        HARMONY,
        "<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two.",
        {"reasoning": CHANNELS},
        Answer("One.\n\nTwo."),
    ),
    "harmony without channels": (
        HARMONY,
        "to be sure: <|x|> hi",
        {"reasoning": CHANNELS},
        Answer("to be sure: <|x|> hi"),
    ),
    "harmony cut": (
        HARMONY,
        '<|channel|>commentary to=functions.now<|message|>{"a',
        {"reasoning": CHANNELS},
        Answer('<|channel|>commentary to=functions.now<|message|>{"a', broken=1),
    ),
    "thinks": (HERMES, "<think>\nHm. \n</think>\n\nHi.", {"reasoning": THINK}, Answer("Hi.", "Hm.")),
    "thinks from the start": (None, "Hm.\n</think>\nHi.", {"reasoning": THINK, "inside": True}, Answer("Hi.", "Hm.")),
    "thinks, tag again": (None, "<think>\nHm.</think>Hi.", {"reasoning": THINK, "inside": True}, Answer("Hi.", "Hm.")),
    "thinks without an end": (HERMES, "<think>Hm.", {"reasoning": THINK}, Answer("", "Hm.")),
    "thinks of calls": (
        HERMES,
        f"<think>I write {H}?</think>{H}",
        {"reasoning": THINK},
        Answer("", f"I write {H}?", (PARIS,)),
    ),
    "thought tag further on": (HERMES, "A <think> tag.", {"reasoning": THINK}, Answer("A <think> tag.")),
    "granite thinks": (
        GRANITE3,
        "<think>Hm.</think><response>Hi.</response>",
        {"reasoning": GRANITE_THINK},
        Answer("Hi.", "Hm."),
    ),
    "mistral thinks": (MISTRAL, "[THINK]Hm.[/THINK]Hi.", {"reasoning": MISTRAL_THINK}, Answer("Hi.", "Hm.")),
    "gemma thinks": (None, "<|channel>thought\nHm.<channel|>Hi.", {"reasoning": GEMMA_THOUGHT}, Answer("Hi.", "Hm.")),
}


@pytest.mark.parametrize(("style", "text", "how", "answer"), CASES.values(), ids=CASES.keys())
def test_answer_is_taken_apart(style: ToolFormat | None, text: str, how: dict[str, object], answer: Answer) -> None:
    assert read(style, text, **how) == answer


@pytest.mark.parametrize(("style", "text", "how", "answer"), CASES.values(), ids=CASES.keys())
def test_pieces_of_any_size_give_the_same(
    style: ToolFormat | None, text: str, how: dict[str, object], answer: Answer
) -> None:
    for cut in range(1, len(text)):
        assert collect(*parse(style, [text[:cut], text[cut:]], **how)) == answer  # type: ignore[arg-type]
    assert collect(*parse(style, list(text), **how)) == answer  # type: ignore[arg-type]


@pytest.mark.parametrize("style", FORMATS, ids=lambda style: style.name)
def test_what_a_format_spells_it_also_reads(style: ToolFormat) -> None:
    calls = [ToolCall("", "get_weather", '{"city": "Zü\\"rich\\n2", "days": 3, "where": {"a": [true, null]}}')]
    if style.parallel:
        calls.append(ToolCall("", "now", "{}"))
    wanted = tuple((call.name, json.loads(call.arguments)) for call in calls)
    assert read(style, spell(style, calls)) == Answer("", "", wanted)


def test_content_goes_out_at_once() -> None:
    parser = OutputParser(HERMES, reasoning=THINK, starts_in_reasoning=False, tools=TOOLS, forced=False)
    assert parser.feed("Hel") == [Content("Hel")]
    assert parser.feed("lo <b") == [Content("lo <b")]
    assert parser.feed("<tool_") == []
    assert parser.feed("box>") == [Content("<tool_box>")]


def test_call_goes_out_as_it_comes() -> None:
    parser = OutputParser(HERMES, reasoning=None, starts_in_reasoning=False, tools=TOOLS, forced=False)
    assert parser.feed('<tool_call>\n{"name": "get_wea') == []
    (opened,) = parser.feed('ther", "arguments": ')
    assert isinstance(opened, ToolCallDelta)
    assert (opened.index, opened.name, opened.arguments) == (0, "get_weather", "")
    assert parser.feed('{"city": "Pa') == [ToolCallDelta(0, None, None, '{"city":"Pa')]
    assert parser.feed('ris"}') == [ToolCallDelta(0, None, None, 'ris"}')]
    assert parser.feed("}\n</tool_call>") == []
    assert parser.close() == []
    with pytest.raises(ValueError, match="closed"):
        parser.feed("x")


def test_long_text_argument_is_streamed() -> None:
    parser = OutputParser(QWEN_XML, reasoning=None, starts_in_reasoning=False, tools=TOOLS, forced=False)
    parser.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\n")
    assert parser.feed('line "1"\n') == [ToolCallDelta(0, None, None, 'line \\"1\\"')]
    assert parser.feed("line 2") == [ToolCallDelta(0, None, None, "\\nline 2")]


@pytest.mark.parametrize(
    ("style", "pattern"),
    [(HERMES, r"call_[0-9a-f]{24}"), (MISTRAL, r"[A-Za-z0-9]{9}"), (MISTRAL_LIST, r"[A-Za-z0-9]{9}")],
)
def test_call_ids(style: ToolFormat, pattern: str) -> None:
    calls = [ToolCall("", "now", "{}"), ToolCall("", "now", "{}")]
    out, _ = parse(style, [spell(style, calls)])
    ids = [piece.id for piece in out if isinstance(piece, ToolCallDelta) and piece.id]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(pattern, each) for each in ids)


def test_markers_are_those_of_calls_and_reasoning() -> None:
    parser = OutputParser(HERMES, reasoning=THINK, starts_in_reasoning=False, tools=TOOLS, forced=False)
    assert parser.markers == ("<tool_call>", "</tool_call>", "<think>", "</think>")
    silent = OutputParser(HERMES, reasoning=None, starts_in_reasoning=False, tools=[], forced=False)
    assert silent.markers == ()


@pytest.mark.parametrize(
    ("source", "architecture", "names"),
    [
        ('<tool_call>{"name": ..., "arguments": ...}</tool_call> </think>', "", ("hermes", "think")),
        ("<tool_call><function=f><parameter=p></parameter></function></tool_call>", "", ("qwen3-coder", None)),
        ("[TOOL_CALLS][ARGS][THINK]", "", ("mistral", "mistral")),
        ("[TOOL_CALLS]", "", ("mistral-list", None)),
        ("<tool_call><arg_key>arguments</arg_key></tool_call>", "", ("generic", None)),
        ("no tools here", "llama", ("generic", None)),
        ("", "gpt-oss", ("harmony", "harmony")),
    ],
)
def test_detect(source: str, architecture: str, names: tuple[str, str | None]) -> None:
    style, reasoning = detect(source, architecture)
    assert (style.name, reasoning and reasoning.name) == names


FRAGMENTS = st.sampled_from(
    [
        *sorted({marker for style in FORMATS for marker in (*style.markers, *style.openers, *style.closers)}),
        *("<think>", "</think>", "<function=now>", "<parameter=city>", "</parameter>", "</function>", "[THINK]", "```"),
        *(
            '{"name": "now", "arguments": {',
            '{"name": "get_weather"',
            "}}",
            "}",
            "{",
            "[",
            "]",
            ",",
            '"',
            "\\",
            "\n",
            " ",
        ),
        *(" to=functions.now", "commentary", "analysis", "json", '"city": "w0"', "now", "function", "print(now())"),
    ]
)
WORDS = st.integers(1, 99).map(lambda number: f" w{number} ")
TEXTS = st.lists(st.one_of(FRAGMENTS, WORDS, st.text(max_size=6)), max_size=24).map("".join)


@pytest.mark.parametrize("style", FORMATS, ids=lambda style: style.name)
@settings(max_examples=120, deadline=None)
@given(text=TEXTS, inside=st.booleans(), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_no_text_is_lost(style: ToolFormat, text: str, inside: bool, cuts: list[int]) -> None:
    reasoning = CHANNELS if style is HARMONY else THINK
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    answer = collect(*parse(style, pieces, reasoning=reasoning, inside=inside))
    assert answer == read(style, text, reasoning=reasoning, inside=inside)
    kept = answer.content + answer.reasoning + json.dumps(answer.calls, ensure_ascii=False)
    lost = [word for word in re.findall(r"\bw\d+\b", text) if word not in kept]
    # What a complete call carries beside its name and arguments is part of its syntax.
    assert not lost or answer.calls
    if not answer.calls and style is not HARMONY:
        squeezed = re.sub(r"\s+|</?think>", "", text)
        assert re.sub(r"\s+|</?think>", "", answer.reasoning + answer.content) == squeezed


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=5))
)
def test_any_arguments_survive(arguments: dict[str, object]) -> None:
    call = ToolCall("", "now", json.dumps(arguments))
    for style in (HERMES, LLAMA3, MISTRAL, DEEPSEEK_R1, HARMONY):
        assert read(style, spell(style, [call])) == Answer("", "", (("now", arguments),))


@pytest.mark.parametrize(
    "schema", [{"enum": 3}, {"type": 4}, {"anyOf": {}}, 5, {"anyOf": [{"type": "string"}]}], ids=str
)
def test_odd_schemas_do_not_disturb_reading(schema: object) -> None:
    tool = Tool("odd", "", {"properties": {"x": schema}})
    text = "<function=odd>\n<parameter=x>\nhi\n</parameter>\n</function>"
    assert read(QWEN_XML, text, tools=[tool]).calls == (("odd", {"x": "hi"}),)


def test_repeated_openers_cost_little() -> None:
    text = '<tool_call>{"a":' * 4000
    assert read(HERMES, text).content == text


ROME = H.replace("Paris", "Rome")
BEGUN = '<tool_call>\n{"name": "get_wea'


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (H + "\n" + H, ["Paris"]),
        (f"{H}\n{ROME}\n{H}\n{ROME}", ["Paris", "Rome"]),
        (f"{H}\n{H.replace('Paris', 'Parish')}", ["Paris", "Parish"]),
        (f"{H}\n{ROME}\n{H}\nand more {CUT}", ["Paris", "Rome"]),
        (f"{H}\n{CUT}", ["Paris"]),
        (f"{H}\n{BEGUN}", ["Paris"]),
    ],
    ids=["one twice", "two in turn", "one that begins alike", "what is behind", "cut in a repeat", "cut in a name"],
)
def test_a_forced_call_is_made_once(text: str, calls: list[str]) -> None:
    """However the text is cut into pieces."""
    for size in (1, 7, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        parser = OutputParser(HERMES, reasoning=None, starts_in_reasoning=False, tools=TOOLS, forced=True)
        out = [piece for each in pieces for piece in parser.feed(each)] + parser.close(early=True)
        answer = collect(out, parser)
        assert [arguments["city"] for _, arguments in answer.calls] == calls  # type: ignore[index]
        assert (answer.content, answer.broken, parser.cut) == ("", 0, False)
        assert parser.repeats == (H in text.replace(H, "", 1))


@pytest.mark.parametrize("forced", [True, False])
def test_a_call_that_a_limit_cuts_stays_a_call(forced: bool) -> None:
    for early in (True, False):
        parser = OutputParser(HERMES, reasoning=None, starts_in_reasoning=False, tools=TOOLS, forced=forced)
        answer = collect([*parser.feed(CUT), *parser.close(early=early)], parser)
        assert (answer.content, answer.calls, answer.broken) == ("" if early else CUT, (), 1)
        assert parser.cut == early
