"""One sampler for every backend: float32 logits of shape (n_vocab,) go in, a token id comes out.

The stages are llama.cpp's C sampler chain, so that a setting means here what it means in llama.cpp. It knows nothing
of engines, sequences or grammars: a grammar masks the logits before they come here.
"""

from __future__ import annotations

import ctypes
import math
import secrets
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.contract import Alternative, Sampling, TokenLogprob
from backends.engine import Floats
from backends.errors import BackendError, InvalidJob

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MIROSTAT_CANDIDATES = 100
_COLDEST = 1e-5
"""Below this temperature the division would overflow float32; the draw is greedy there."""
_NEGLIGIBLE = 80.0
"""Candidates this far below the best logit have a probability under 1e-34, close to where float32 turns it to 0."""

_INT_MAX = 2**31 - 1
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (-1, _INT_MAX),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "repeat_last_n": (-1, _INT_MAX),
    "frequency_penalty": (-100.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "dry_allowed_length": (1, 1_000_000),
    "dry_penalty_last_n": (-1, _INT_MAX),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 10.0),
}
_TYPICAL = {"temperature": "typical values are 0 to 2", "repeat_penalty": "typical values are 1 to 1.3"}
_WHOLE = frozenset(
    ("top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat"),
)
_MAX_BREAKERS = 16
_MAX_BREAKER_BYTES = 40
_MAX_BIASES = 4096
_MAX_BIAS = 1000.0


def validate(sampling: Sampling, n_vocab: int) -> None:
    """Check every field against what the chain can honour for a vocabulary of `n_vocab` tokens.

    Raises InvalidJob, which names the field, its value and the allowed range.
    """
    for name, (low, high) in _RANGES.items():
        _check_number(name, getattr(sampling, name), low, high, whole=name in _WHOLE)
    if sampling.seed is not None:
        _check_number("seed", sampling.seed, -(2**63), 2**64 - 1, whole=True)
    _check_breakers(sampling.dry_sequence_breakers)
    _check_bias(sampling.logit_bias, n_vocab)


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InvalidJob(f"{name} must be {'a whole number' if whole else 'a number'}", f"use {low:g} to {high:g}")
    if not low <= value <= high:  # NaN is in no range
        shown = value if isinstance(value, float) or abs(value) < 2**64 else "a huge number"
        hint = "; ".join(part for part in (f"use {low:g} to {high:g}", _TYPICAL.get(name, "")) if part)
        raise InvalidJob(f"{name} is {shown}, outside its range of {low:g} to {high:g}", hint)


def _check_breakers(breakers: Sequence[str]) -> None:
    if len(breakers) > _MAX_BREAKERS:
        raise InvalidJob(
            f"dry_sequence_breakers has {len(breakers)} entries, at most {_MAX_BREAKERS} are allowed",
            "keep the breakers that matter; the default is newline, colon, double quote and asterisk",
        )
    for breaker in breakers:
        try:
            size = len(breaker.encode()) if isinstance(breaker, str) else 0
        except UnicodeEncodeError:
            size = 0
        if not 1 <= size <= _MAX_BREAKER_BYTES or "\0" in breaker:
            raise InvalidJob(
                f"dry_sequence_breakers must be texts of 1 to {_MAX_BREAKER_BYTES} bytes of UTF-8",
                "remove or shorten the offending breaker",
            )


def _check_bias(bias: dict[int, float], n_vocab: int) -> None:
    if len(bias) > _MAX_BIASES:
        raise InvalidJob(
            f"logit_bias has {len(bias)} entries, at most {_MAX_BIASES} are allowed",
            "bias fewer tokens, or use a grammar",
        )
    for token, value in bias.items():
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_vocab:
            raise InvalidJob(
                f"logit_bias names a token that the model does not have; ids are 0 to {n_vocab - 1}",
                "get ids from the tokenizer of this model",
            )
        if value != -math.inf:
            _check_number("logit_bias", value, -_MAX_BIAS, _MAX_BIAS, whole=False)


class Sampler:
    """Draws the tokens of one sequence; not thread-safe.

    `vocab` is llama.cpp's vocabulary pointer, needed by DRY alone (None: DRY raises InvalidJob). `n_ctx_train` caps
    the windows of the penalties, in tokens, and is what -1 stands for there. Choice `index` of a job with n > 1 uses
    `seed + index`. A logit bias of -inf bans its token.
    """

    def __init__(self, sampling: Sampling, vocab: Any, n_vocab: int, n_ctx_train: int, index: int = 0) -> None:
        validate(sampling, n_vocab)
        self._n_vocab = n_vocab
        self._seed = _seed(sampling.seed, index)
        self._greedy = sampling.temperature < _COLDEST
        self._window = 0
        self._stages = 0
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), np.intp, len(sampling.logit_bias))
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32, len(sampling.logit_bias))
        self._prune = not self._greedy and (sampling.typical_p < 1.0 or sampling.mirostat != 0)
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._close = weakref.finalize(self, llama.llama_sampler_free, self._chain)
        self._add_memory(sampling, vocab, n_ctx_train)
        self._plain_argmax = self._greedy and self._stages == 0
        if self._greedy:
            self._add(llama.llama_sampler_init_greedy())
        elif sampling.mirostat:
            self._add_mirostat(sampling)
        else:
            self._add_draw(sampling)
        if not self._plain_argmax:
            self._allocate()

    @property
    def seed(self) -> int:
        """The 32-bit seed in use, whether given or drawn."""
        return self._seed

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token."""
        return self._greedy

    def sample(self, logits: Floats) -> int:
        """Pick a token from `logits`, shape (n_vocab,), which stay as they are; nothing is remembered yet.

        Raises BackendError where no token is possible: a NaN, or all of them -inf.
        """
        if self._bias_ids.size:
            logits = logits.copy()
            logits[self._bias_ids] += self._bias
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise BackendError(
                "the model's output has no usable number to draw a token from",
                "try again; if it stays, run the device check, or ask less of logit_bias and the grammar",
            )
        if self._plain_argmax:
            return best
        self._fill(logits, float(logits[best]))
        llama.llama_sampler_apply(self._chain, self._reference)
        return int(self._ids[self._array.selected])

    def accept(self, token: int) -> None:
        """Remember `token` as the sequence's next one, for the penalties and DRY."""
        if self._window:
            llama.llama_sampler_accept(self._chain, token)

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Remember the prompt, as far as the penalties and DRY look back."""
        if self._window:
            for token in tokens[-self._window :]:
                llama.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chain; also done when the sampler is collected. It cannot be used any more."""
        self._close()
        self.__dict__.pop("_chain", None)

    def _allocate(self) -> None:
        self._order = np.arange(self._n_vocab, dtype=np.int32)
        candidates = np.zeros(self._n_vocab, _CANDIDATE)
        self._ids, self._logits = candidates["id"], candidates["logit"]
        self._ids[:] = self._order
        data = ctypes.cast(candidates.ctypes.data, llama.llama_token_data_p)
        self._array = llama.llama_token_data_array(data, self._n_vocab, -1, False)
        self._reference = ctypes.byref(self._array)

    def _fill(self, logits: Floats, best: float) -> None:
        """Lay out the candidates again; a draw shuffles the ids, a greedy one does not."""
        size = self._n_vocab
        if self._prune:
            # Typical sampling and mirostat take logarithms of probabilities: one that is 0 spoils them with NaN.
            keep = np.flatnonzero(logits > best - _NEGLIGIBLE)
            size = keep.size
            self._ids[:size] = keep
            self._logits[:size] = logits[keep]
        else:
            if not self._greedy:
                self._ids[:] = self._order
            self._logits[:] = logits
        self._array.size, self._array.selected, self._array.sorted = size, -1, False

    def _add(self, stage: Any) -> None:
        llama.llama_sampler_chain_add(self._chain, stage)
        self._stages += 1

    def _add_memory(self, sampling: Sampling, vocab: Any, n_ctx_train: int) -> None:
        """Add the stages that look back on the sequence: penalties and DRY."""
        last_n = _window(sampling.repeat_last_n, n_ctx_train)
        factors = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        if last_n and factors != (1.0, 0.0, 0.0):
            self._add(llama.llama_sampler_init_penalties(self._n_vocab, last_n, *factors))
            self._window = last_n
        last_n = _window(sampling.dry_penalty_last_n, n_ctx_train)
        if last_n and sampling.dry_multiplier > 0.0:
            if vocab is None:
                raise InvalidJob(
                    "this engine cannot run DRY: it has no llama.cpp vocabulary",
                    "set dry_multiplier to 0, or use the llama.cpp backend",
                )
            breakers = [text.encode() for text in sampling.dry_sequence_breakers]
            stage = llama.llama_sampler_init_dry(
                vocab,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                last_n,
                (ctypes.c_char_p * len(breakers))(*breakers),
                len(breakers),
            )
            self._add(stage)
            self._window = max(self._window, last_n)

    def _add_mirostat(self, sampling: Sampling) -> None:
        self._add(llama.llama_sampler_init_temp(sampling.temperature))
        tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat == 1:
            stage = llama.llama_sampler_init_mirostat(self._n_vocab, self._seed, tau, eta, _MIROSTAT_CANDIDATES)
        else:
            stage = llama.llama_sampler_init_mirostat_v2(self._seed, tau, eta)
        self._add(stage)

    def _add_draw(self, sampling: Sampling) -> None:
        if sampling.top_k > 0:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1.0:
            self._add(llama.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1.0:
            self._add(llama.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            self._add(llama.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.temperature != 1.0:
            self._add(llama.llama_sampler_init_temp(sampling.temperature))
        self._add(llama.llama_sampler_init_dist(self._seed))


def _seed(asked: int | None, index: int) -> int:
    seed = secrets.randbits(32) if asked is None or asked < 0 else (asked + index) % 2**32
    # The largest value makes llama.cpp draw a seed of its own, which nobody could then repeat.
    return 0 if seed == llama.LLAMA_DEFAULT_SEED else seed


def _window(asked: int, n_ctx_train: int) -> int:
    return n_ctx_train if asked < 0 else min(asked, n_ctx_train)


def logprobs(logits: Floats, token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """Report `token` and the `top` likeliest tokens under the softmax of `logits`, shape (n_vocab,), unmodified.

    Natural logarithms; alternatives in descending order, equal ones by id.
    """
    best = logits.max()
    shifted = logits - best
    total = float(best) + math.log(float(np.exp(shifted).sum(dtype=np.float64)))
    return TokenLogprob(token, piece(token), float(logits[token]) - total, _alternatives(logits, total, top, piece))


def _alternatives(logits: Floats, total: float, top: int, piece: Callable[[int], bytes]) -> list[Alternative]:
    top = min(top, logits.size)
    if top <= 0:
        return []
    # Every token that ties with the last place must be seen, or which of them appears would depend on the partition.
    threshold = np.partition(logits, logits.size - top)[logits.size - top]
    ids = np.flatnonzero(logits >= threshold)
    ids = ids[np.lexsort((ids, -logits[ids]))][:top]
    return [Alternative(int(i), piece(int(i)), float(logits[i]) - total) for i in ids]
