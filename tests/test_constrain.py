"""Structured output: a model of random logits, held by a grammar, can only write what the grammar allows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import process_time
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.constrain import Constraints, Matcher
from backends.contract import Grammar, GrammarKind
from backends.engine import Floats
from backends.errors import InvalidJob
from tests.starter_vocab import StarterVocab, starter_vocab

PERSON = """{"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 12},
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3}},
  "required": ["name", "age", "tags"], "additionalProperties": false}"""
SUM_LARK = 'start: NUMBER (" + " NUMBER){1,4}\nNUMBER: /[1-9][0-9]{0,2}/\n'
SUM_GBNF = 'root ::= number (" + " number){1,4}\nnumber ::= [1-9] [0-9]? [0-9]?\n'
NESTED = '{"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 1}}}'


@pytest.fixture(scope="module")
def vocab() -> Iterator[StarterVocab]:
    with starter_vocab() as vocab:
        yield vocab


@pytest.fixture(scope="module")
def constraints(vocab: StarterVocab) -> Constraints:
    return Constraints(vocab)


def write(matcher: Matcher, vocab: StarterVocab, seed: int, limit: int = 400, lean: Floats | None = None) -> str:
    """Let random logits, plus `lean`, write to the end of the grammar, or to `limit` tokens."""
    random = np.random.default_rng(seed)
    out = b""
    for _ in range(limit):
        logits = random.standard_normal(vocab.n_vocab).astype(np.float32)
        token = int(matcher.mask(logits if lean is None else logits + lean).argmax())
        matcher.accept(token)
        if token in vocab.eog:
            break
        out += vocab.piece(token)
    return out.decode(errors="replace")


def is_person(text: str) -> bool:
    person = json.loads(text)
    assert set(person) == {"name", "age", "tags"}
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 12
    assert person["age"] in range(151)
    return 1 <= len(person["tags"]) <= 3 and set(person["tags"]) <= {"a", "b"}


def is_sum(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,2}( \+ [1-9]\d{0,2}){1,4}", text) is not None


@pytest.mark.parametrize(
    ("kind", "text", "valid"),
    [
        pytest.param("json_schema", PERSON, is_person, id="json-schema"),
        pytest.param("json_schema", NESTED, lambda text: isinstance(json.loads(text), list), id="recursive-schema"),
        pytest.param("regex", r"[a-c]{3}-\d{2,4}", re.compile(r"[a-c]{3}-\d{2,4}").fullmatch, id="regex"),
        pytest.param("regex", "(yes|no|ná)", ("yes", "no", "ná").__contains__, id="choice"),
        pytest.param("lark", SUM_LARK, is_sum, id="lark"),
        pytest.param("gbnf", SUM_GBNF, is_sum, id="gbnf"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_random_model_stays_inside(
    constraints: Constraints, vocab: StarterVocab, kind: GrammarKind, text: str, valid: Callable[[str], Any], seed: int
) -> None:
    matcher = constraints.compile(Grammar(kind, text))
    written = write(matcher, vocab, seed)
    assert valid(written), written
    assert matcher.done


def test_any_json_object_can_be_written(constraints: Constraints, vocab: StarterVocab) -> None:
    matcher = constraints.compile(Grammar("json_object", ""))
    for token in vocab.encode('{"a": [1, null, {"b": "é"}],\n  "c": -1.5e3}', special=False, add_bos=False):
        assert np.isfinite(matcher.mask(np.zeros(vocab.n_vocab, np.float32))[token])
        matcher.accept(token)
    assert matcher.done


def test_white_space_cannot_go_on_for_ever(constraints: Constraints, vocab: StarterVocab) -> None:
    blank = [100.0 * (not vocab.piece(token).strip() and token not in vocab.eog) for token in range(vocab.n_vocab)]
    written = write(constraints.compile(Grammar("json_schema", PERSON)), vocab, 0, lean=np.array(blank, np.float32))
    assert is_person(written)
    assert max(map(len, re.findall(r"\s+", written))) <= 34


def test_done_leaves_only_the_end(constraints: Constraints, vocab: StarterVocab) -> None:
    matcher = constraints.compile(Grammar("regex", "abc"))
    for token in vocab.encode("abc", special=False, add_bos=False):
        assert not matcher.done
        matcher.accept(token)
    assert matcher.done
    allowed = np.flatnonzero(np.isfinite(matcher.mask(np.zeros(vocab.n_vocab, np.float32))))
    assert set(allowed.tolist()) == vocab.eog
    matcher.accept(min(vocab.eog))
    assert matcher.done


def test_mask_leaves_the_logits_alone_and_bans_padding(constraints: Constraints, vocab: StarterVocab) -> None:
    logits = np.ones(vocab.n_vocab + 64, np.float32)
    masked = constraints.compile(Grammar("regex", "a+")).mask(logits)
    assert (logits == 1).all()
    assert masked.shape == logits.shape
    assert np.isneginf(masked[vocab.n_vocab :]).all()
    assert {vocab.piece(int(t)).strip(b"a") for t in np.flatnonzero(np.isfinite(masked))} == {b""}


def test_clones_go_their_own_ways(constraints: Constraints, vocab: StarterVocab) -> None:
    first = constraints.compile(Grammar("regex", "a(b|c)d"))
    a, b, c = (vocab.encode(letter, special=False, add_bos=False)[0] for letter in "abc")
    first.accept(a)
    second = first.clone()
    first.accept(b)
    second.accept(c)
    assert (write(first, vocab, 1), write(second, vocab, 1)) == ("d", "d")


def test_a_banned_token_is_refused(constraints: Constraints, vocab: StarterVocab) -> None:
    matcher = constraints.compile(Grammar("regex", "[0-9]+"))
    with pytest.raises(InvalidJob, match="regular expression"):
        matcher.accept(vocab.encode("x", special=False, add_bos=False)[0])


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        pytest.param("json_schema", "{", "EOF", id="not-json"),
        pytest.param("json_schema", "[1]", "object schema", id="not-a-schema"),
        pytest.param("json_schema", '{"type": "obj"}', "Invalid type", id="unknown-type"),
        pytest.param("json_schema", '{"not": {}}', "Unimplemented", id="unsupported-keyword"),
        pytest.param("json_schema", '{"$ref": "http://127.0.0.1:9/x"}', "127.0.0.1", id="remote-reference"),
        pytest.param("json_schema", '{"type":"array","items":' * 3000 + "{}" + "}" * 3000, "recursion", id="deep"),
        pytest.param("json_schema", '{"x": "\ud800"}', "surrogates", id="not-unicode"),
        pytest.param("json_schema", '{"description": "' + "x" * 300_000 + '"}', "larger than 256 KiB", id="huge"),
        pytest.param("regex", "[a-z", "unclosed character class", id="regex"),
        pytest.param("regex", "(?=a)b", "look-around", id="look-around"),
        pytest.param("regex", "(" * 5000 + ")" * 5000, "regex", id="deep-regex"),
        pytest.param("lark", "start: nope", "unknown name", id="unknown-rule"),
        pytest.param("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested", id="deep-lark"),
        pytest.param("gbnf", 'top ::= "a"', "root", id="no-root"),
        pytest.param("gbnf", "root ::= [\\", "GBNF", id="cut-off-gbnf"),
        pytest.param("gbnf", "root ::= " + "(" * 5000, "recursion", id="deep-gbnf"),
    ],
)
def test_bad_grammars_say_why_in_a_line(constraints: Constraints, kind: GrammarKind, text: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason) as caught:
        constraints.compile(Grammar(kind, text))
    assert caught.value.hint
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param("regex", "a{1000000}", id="counted"),
        pytest.param("regex", "(.*a){30}.{400}b", id="states"),
        pytest.param("lark", "start: a\na: a a | b |\nb: b b | a |", id="ambiguous"),
        pytest.param("json_schema", json.dumps({"enum": [f"{i}" * 3 for i in range(10_000)]}), id="many-values"),
    ],
)
def test_hostile_grammars_end_soon(constraints: Constraints, vocab: StarterVocab, kind: GrammarKind, text: str) -> None:
    began = process_time()
    with suppress(InvalidJob):
        write(constraints.compile(Grammar(kind, text)), vocab, 3, limit=3)
    assert process_time() - began < 3


parts = [
    '{"',
    '"}',
    "type",
    '":',
    "object",
    "root ::=",
    "start:",
    "(",
    ")",
    "[",
    "]",
    "|",
    "\\",
    '"a"',
    "\n",
    "/",
    "{2,",
    " ",
]
texts = st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=12).map("".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(get_args(GrammarKind)), text=texts)
def test_any_text_compiles_or_is_refused(
    constraints: Constraints, vocab: StarterVocab, kind: GrammarKind, text: str
) -> None:
    began = process_time()
    with suppress(InvalidJob):
        write(constraints.compile(Grammar(kind, text)), vocab, 0, limit=4)
    assert process_time() - began < 3


def test_a_model_without_an_end_is_refused(vocab: StarterVocab) -> None:
    class Endless(StarterVocab):
        def __init__(self, vocab: StarterVocab) -> None:
            super().__init__(vocab.pointer)
            self.eog = frozenset()

    with pytest.raises(InvalidJob, match="end-of-text"):
        Constraints(Endless(vocab)).compile(Grammar("regex", "a"))
