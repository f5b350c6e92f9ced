"""Grammars of forced calls, compiled for the starter's real vocabulary and followed token by token."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from backends.constrain import Constraints, Matcher
from backends.engine import Tokenizer
from backends.errors import InvalidJob
from localai.errors import BadRequest
from localai.messages import Tool, ToolCall, ToolCallDelta, ToolChoice
from localai.toolcalls import OutputParser
from localai.toolformats import CHANNELS, GRANITE3, HARMONY, HERMES, LFM2, QWEN_XML, THINK, ToolFormat, spell
from localai.toolgrammar import tool_grammar
from tests.starter_vocab import starter_vocab
from tests.test_toolcalls import FORMATS

WEATHER = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["c", "f"]},
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["city"],
    },
)
TREE = Tool(
    "tree",
    "",
    {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "$defs": {"node": {"type": "object", "properties": {"x": {"type": "number"}, "l": {"$ref": "#/$defs/node"}}}},
    },
)
NOW = Tool("now", "", {})
SMALL = Tool(
    "set_lamp",
    "",
    {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "room": {"type": "string", "enum": ["hall", "attic"]}},
        "required": ["on", "room"],
    },
)
TOOLS = [WEATHER, TREE, NOW]
REQUIRED = ToolChoice("required")
CALLS = [
    ToolCall("", "get_weather", '{"city": "Zü\\"rich", "days": 3}'),
    ToolCall("", "now", "{}"),
    ToolCall("", "tree", '{"root": {"x": 1.5, "l": {"x": 2}}}'),
]


@pytest.fixture(scope="module")
def vocab() -> Iterator[Tokenizer]:
    with starter_vocab() as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def constraints(vocab: Tokenizer) -> Constraints:
    return Constraints(vocab)


def accepts(matcher: Matcher, vocab: Tokenizer, text: str, *, special: bool = False) -> bool:
    """Whether `text` is a whole sentence of the grammar."""
    try:
        for token in vocab.encode(text, special=special, add_bos=False):
            matcher.accept(token)
    except InvalidJob:
        return False
    ended = matcher.mask(np.zeros(vocab.n_vocab, np.float32))
    return bool(np.isfinite(ended[list(vocab.eog)]).any())


def matcher(constraints: Constraints, style: ToolFormat, tools: list[Tool], **how: object) -> Matcher:
    parallel = bool(how.pop("parallel", True))
    choice = how.pop("choice", REQUIRED)
    grammar = tool_grammar(style, tools, choice, parallel, **how)  # type: ignore[arg-type]
    assert grammar is not None
    return constraints.compile(grammar)


@pytest.mark.parametrize("style", FORMATS, ids=lambda style: style.name)
def test_grammar_takes_what_the_family_writes(style: ToolFormat, constraints: Constraints, vocab: Tokenizer) -> None:
    calls = CALLS if style.parallel and style is not LFM2 else CALLS[:1]
    assert accepts(matcher(constraints, style, TOOLS), vocab, spell(style, calls))
    assert accepts(matcher(constraints, style, TOOLS, parallel=False), vocab, spell(style, CALLS[:1]))
    assert not accepts(matcher(constraints, style, TOOLS, parallel=False), vocab, spell(style, CALLS[:2]))


@pytest.mark.parametrize("style", FORMATS, ids=lambda style: style.name)
@pytest.mark.parametrize(
    "call",
    [
        ToolCall("", "get_weather", '{"days": 3}'),
        ToolCall("", "get_weather", '{"city": "x", "days": -1}'),
        ToolCall("", "get_weather", '{"city": "x", "more": 1}'),
        ToolCall("", "get_weather", '{"unit": "k", "city": "x"}'),
        ToolCall("", "get_rain", '{"city": "x"}'),
    ],
    ids=["required", "range", "unknown argument", "enum", "unknown tool"],
)
def test_grammar_refuses_other_calls(
    style: ToolFormat, call: ToolCall, constraints: Constraints, vocab: Tokenizer
) -> None:
    assert not accepts(matcher(constraints, style, TOOLS), vocab, spell(style, [call]))


def test_grammar_refuses_an_answer_without_a_call(constraints: Constraints, vocab: Tokenizer) -> None:
    assert not accepts(matcher(constraints, HERMES, TOOLS), vocab, "It is sunny.")
    assert not accepts(matcher(constraints, HERMES, TOOLS), vocab, "")


def test_named_tool_is_the_only_one(constraints: Constraints, vocab: Tokenizer) -> None:
    choice = ToolChoice("required", "now")
    assert accepts(matcher(constraints, HERMES, TOOLS, choice=choice), vocab, spell(HERMES, CALLS[1:2]))
    assert not accepts(matcher(constraints, HERMES, TOOLS, choice=choice), vocab, spell(HERMES, CALLS[:1]))
    twice = [CALLS[1], CALLS[1]]
    assert not accepts(matcher(constraints, HERMES, TOOLS, choice=choice), vocab, spell(HERMES, twice))


@pytest.mark.parametrize(("count", "taken"), [(16, True), (17, False)])
def test_calls_come_to_an_end(count: int, taken: bool, constraints: Constraints, vocab: Tokenizer) -> None:
    assert accepts(matcher(constraints, HERMES, TOOLS), vocab, spell(HERMES, [CALLS[1]] * count)) is taken


def test_markers_may_be_control_tokens(constraints: Constraints, vocab: Tokenizer) -> None:
    start, end = (vocab.encode(text, special=True, add_bos=False)[0] for text in ("<repo_name>", "<file_sep>"))
    special = {"<tool_call>": start, "</tool_call>": end}
    text = spell(HERMES, CALLS).replace("<tool_call>", "<repo_name>").replace("</tool_call>", "<file_sep>")
    assert accepts(matcher(constraints, HERMES, TOOLS, special=special), vocab, text, special=True)
    assert not accepts(matcher(constraints, HERMES, TOOLS, special=special), vocab, spell(HERMES, CALLS), special=True)


@pytest.mark.parametrize("special", [{}, {"</think>": 5}], ids=["text", "control token"])
def test_reasoning_that_the_prompt_opened_may_end_first(
    special: dict[str, int], constraints: Constraints, vocab: Tokenizer
) -> None:
    text = "Hm.\n\nWhy?</think>\n" + spell(HERMES, CALLS)
    if special:
        text = text.replace("</think>", vocab.raw_piece(5).decode())
    how: dict[str, object] = {"reasoning": THINK, "starts_in_reasoning": True, "special": special}
    assert accepts(matcher(constraints, HERMES, TOOLS, **how), vocab, text, special=True)
    assert not accepts(matcher(constraints, HERMES, TOOLS, **how), vocab, "Hm.", special=True)


def test_harmony_may_think_first(constraints: Constraints, vocab: Tokenizer) -> None:
    call = spell(HARMONY, CALLS[:1])
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    for text in (call, thought + call):
        assert accepts(matcher(constraints, HARMONY, TOOLS, reasoning=CHANNELS), vocab, text)


@pytest.mark.parametrize(("choice"), [ToolChoice("auto"), ToolChoice("none")], ids=lambda choice: choice.mode)
def test_free_choice_has_no_grammar(choice: ToolChoice) -> None:
    assert tool_grammar(HERMES, [Tool("now", "", {}, strict=True)], choice, True) is None


@pytest.mark.parametrize(
    ("tools", "choice", "words"),
    [
        ([], REQUIRED, "no tools"),
        (TOOLS, ToolChoice("required", "get_wether"), "get_wether"),
        ([], ToolChoice("required", "now"), "no tools"),
    ],
)
def test_impossible_choice(tools: list[Tool], choice: ToolChoice, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        tool_grammar(HERMES, tools, choice, True)
    assert caught.value.param == "tool_choice"
    assert "get_weather" in caught.value.hint or not tools


@pytest.mark.parametrize(
    "parameters", [{"type": "string"}, {"properties": []}, {"required": 1}, {"properties": None}], ids=str
)
def test_parameters_that_are_no_schema(parameters: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="odd") as caught:
        tool_grammar(QWEN_XML, [Tool("odd", "", parameters)], REQUIRED, True)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("style", FORMATS, ids=lambda style: style.name)
def test_a_model_that_knows_nothing_makes_a_valid_call(
    style: ToolFormat, constraints: Constraints, vocab: Tokenizer
) -> None:
    follows = matcher(constraints, style, [SMALL], parallel=False)
    dice = np.random.default_rng(7)
    text = b""
    for _ in range(200):
        token = int(np.argmax(follows.mask(dice.normal(size=vocab.n_vocab).astype(np.float32))))
        if token in vocab.eog:
            break
        follows.accept(token)
        text += vocab.piece(token)
    parser = OutputParser(style, reasoning=None, starts_in_reasoning=False, tools=[SMALL], forced=True)
    pieces = [*parser.feed(text.decode()), *parser.close()]
    deltas = [piece for piece in pieces if isinstance(piece, ToolCallDelta)]
    assert [delta.name for delta in deltas if delta.name] == ["set_lamp"]
    arguments = json.loads("".join(delta.arguments for delta in deltas))
    assert arguments["room"] in ("hall", "attic")
    assert arguments["on"] in (True, False)
    assert parser.calls == 1


@pytest.mark.parametrize("style", [HERMES, QWEN_XML, GRANITE3], ids=lambda style: style.name)
def test_many_tools_with_odd_schemas_compile(style: ToolFormat, constraints: Constraints, vocab: Tokenizer) -> None:
    odd = {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date-time"},
            "path": {"type": ["string", "null"], "pattern": "^/"},
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "any": {},
            "both": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        },
        "not": {"required": ["nothing"]},
    }
    tools = [Tool(f"tool_{number}", "", odd) for number in range(40)]
    text = spell(style, [ToolCall("", "tool_39", '{"tags": ["a", "b"]}')])
    assert accepts(matcher(constraints, style, tools), vocab, text)
