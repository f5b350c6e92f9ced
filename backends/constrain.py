"""A schema, regex or grammar goes in; out comes a matcher that bans, token by token, what would leave the language.

Built on llguidance. It knows a tokenizer, but nothing of engines or sampling.
"""

from __future__ import annotations

import threading
from functools import cached_property

import llguidance
import numpy as np
from numpy.typing import NDArray

from backends.contract import Grammar
from backends.engine import Floats, Tokenizer
from backends.errors import InvalidJob

_MAX_GRAMMAR_BYTES = 256 * 1024
_MAX_REASON = 200
_JSON_OPTIONS: llguidance._lib.JsonCompileOptions = {
    # One space, or one line break with its indentation: a model may lay its JSON out, but never loop on white space.
    "whitespace_flexible": True,
    "whitespace_pattern": r"(?: |\r?\n[ \t]{0,32})",
}
_NAMES = {
    "json_schema": "JSON schema",
    "json_object": "JSON object grammar",
    "regex": "regular expression",
    "lark": "Lark grammar",
    "gbnf": "GBNF grammar",
}


def _limits() -> llguidance.LLParserLimits:
    """Bound compilation and each mask to tenths of a second; verbose errors would repeat the grammar."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=200_000, max_lexer_states=50_000, max_grammar_size=200_000, verbose_errors=False
    )


class _Pieces:
    """A tokenizer in the shape that llguidance reads: the bytes of every token, control tokens marked by 0xff."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eog)
        self.special_token_ids: list[int] = []
        self.tokens = [self._bytes(token) for token in range(tokenizer.n_vocab)]

    def _bytes(self, token: int) -> bytes:
        if token not in self._tokenizer.eog and (piece := self._tokenizer.piece(token)):
            return piece
        raw = self._tokenizer.raw_piece(token)
        return b"\xff" + raw if raw else b""

    def __call__(self, text: str | bytes) -> list[int]:
        readable = text if isinstance(text, str) else text.decode(errors="replace")
        return self._tokenizer.encode(readable, special=False, add_bos=False)


class Constraints:
    """Compiles grammars for one tokenizer; make one per engine. `compile` may be called from any thread.

    The token trie is built at the first use: about 0.2 s for 49,152 tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> Matcher:
        """Make a matcher at the start of `grammar`.

        Raises InvalidJob, with the reason in one line, where it cannot be read, is too large or too complex.
        """
        name = _NAMES[grammar.kind]
        with self._lock:
            tokens = self._tokens
        try:
            if len(grammar.text.encode()) > _MAX_GRAMMAR_BYTES:
                raise InvalidJob(f"the {name} is larger than {_MAX_GRAMMAR_BYTES // 1024} KiB", "make it smaller")
            source = _source(grammar)
            matcher = llguidance.LLMatcher(tokens, source, log_level=0, limits=_limits())
        except ValueError as error:
            raise _invalid(name, str(error)) from error
        if matcher.is_error():
            raise _invalid(name, matcher.get_error())
        return Matcher(matcher, name, self._tokenizer.eog, self._tokenizer.n_vocab)

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        if not self._tokenizer.eog:
            raise InvalidJob(
                "this model has no end-of-text token, so its output cannot be kept to a grammar",
                "send the request without a grammar, or choose another model",
            )
        wrapper = llguidance.TokenizerWrapper(_Pieces(self._tokenizer))
        return llguidance.LLTokenizer(wrapper, n_vocab=self._tokenizer.n_vocab, eos_token=sorted(self._tokenizer.eog))


def _source(grammar: Grammar) -> str:
    """The grammar as llguidance reads it. Raises ValueError where that is seen without compiling."""
    match grammar.kind:
        case "json_schema":
            return llguidance.LLMatcher.grammar_from_json_schema(grammar.text, overrides=_JSON_OPTIONS)
        case "json_object":
            return llguidance.LLMatcher.grammar_from_json_schema('{"type": "object"}', overrides=_JSON_OPTIONS)
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)
        case "gbnf":
            return llguidance.grammar_from("gbnf", grammar.text)


def _invalid(name: str, report: str) -> InvalidJob:
    lines = [line.strip() for line in report.replace("<non-verbose/>", "").splitlines() if line.strip()]
    causes = [line for line in lines[1:] if line.startswith("error:")]
    reason = " ".join([*lines[:1], *causes[:1]]) or "no reason given"
    if len(reason) > _MAX_REASON:
        reason = reason[: _MAX_REASON - 1] + "…"
    return InvalidJob(
        f"the {name} cannot be used: {reason}",
        "correct or simplify it; look-around and a few JSON schema keywords are not supported",
    )


class Matcher:
    """Follows one sequence through a grammar; not thread-safe."""

    def __init__(self, matcher: llguidance.LLMatcher, name: str, eog: frozenset[int], n_vocab: int) -> None:
        self._matcher = matcher
        self._name = name
        self._eog = eog
        self._n_vocab = n_vocab
        self._words = np.zeros((n_vocab + 31) // 32, np.uint32)
        self._masked: Floats = np.empty(0, np.float32)

    @property
    def done(self) -> bool:
        """Whether the text is complete, so that only an end-of-text token can follow."""
        return self._matcher.is_stopped()

    def mask(self, logits: Floats) -> Floats:
        """Set what the grammar does not allow next to -inf.

        Takes logits of shape (at least n_vocab,), left as they are; returns a buffer of the same shape that the next
        call overwrites. Raises InvalidJob where the grammar has grown too complex to go on.
        """
        if self._masked.shape != logits.shape:
            self._masked = np.empty_like(logits)
        self._masked.fill(-np.inf)
        allowed = self._allowed()
        np.copyto(self._masked[: allowed.size], logits[: allowed.size], where=allowed)
        return self._masked

    def accept(self, token: int) -> None:
        """Go on by `token`. Raises InvalidJob where the grammar does not allow it, or has grown too complex."""
        if self.done and token in self._eog:
            return
        if not self._matcher.consume_token(token):
            raise _invalid(self._name, self._matcher.get_error() or f"token {token} cannot follow here")

    def clone(self) -> Matcher:
        """An independent matcher at the same place."""
        return Matcher(self._matcher.deep_copy(), self._name, self._eog, self._n_vocab)

    def _allowed(self) -> NDArray[np.bool_]:
        if self.done:
            allowed = np.zeros(self._n_vocab, np.bool_)
            allowed[list(self._eog)] = True
            return allowed
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error():
            raise _invalid(self._name, self._matcher.get_error())
        bits = np.unpackbits(self._words.view(np.uint8), count=self._n_vocab, bitorder="little")
        return bits.view(np.bool_)
