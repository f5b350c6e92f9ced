"""The sampler on synthetic logits: every setting shows its effect, bad ones are refused by name."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from time import thread_time
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import Sampling
from backends.engine import Floats
from backends.errors import BackendError, InvalidJob
from backends.sampling import _CANDIDATE, Sampler, logprobs, validate
from tests.starter_vocab import StarterVocab, starter_vocab

SIZE = 1000
NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7}
GREEDY: dict[str, Any] = {"temperature": 0.0}


def ladder(*best: float, size: int = SIZE, floor: float = -50.0) -> Floats:
    """Logits with the given values first and `floor` for all other tokens."""
    logits = np.full(size, floor, np.float32)
    logits[: len(best)] = best
    return logits


def sampler(**settings: Any) -> Sampler:
    return Sampler(Sampling(**settings), None, SIZE, 4096)


def draws(logits: Floats, count: int = 300, **settings: Any) -> list[int]:
    drawn = sampler(**{**NEUTRAL, **settings})
    return [drawn.sample(logits) for _ in range(count)]


@pytest.fixture(scope="module")
def vocab() -> Iterator[StarterVocab]:
    with starter_vocab() as vocab:
        yield vocab


@pytest.mark.parametrize(
    ("settings", "logits", "possible"),
    [
        pytest.param({"temperature": 0.0}, ladder(1, 3, 2), {1}, id="temperature-0-is-greedy"),
        pytest.param({"temperature": 1e-9}, ladder(1, 3, 2), {1}, id="tiny-temperature-is-greedy"),
        pytest.param({"temperature": 100.0}, ladder(1, 3, 2, floor=-1e9), {0, 1, 2}, id="hot"),
        pytest.param({"top_k": 1}, ladder(1, 3, 2), {1}, id="top-k-1-is-argmax"),
        pytest.param({"top_k": 2}, ladder(1, 1.1, 1.2), {1, 2}, id="top-k-2"),
        pytest.param({"top_k": -1}, ladder(1, 1, 1), {0, 1, 2}, id="top-k-off"),
        pytest.param({"top_p": 0.0}, ladder(1, 1.1, 1.2), {2}, id="top-p-0-keeps-one"),
        pytest.param({"top_p": 0.6}, ladder(1, 1.1, 1.2), {1, 2}, id="top-p"),
        pytest.param({"min_p": 0.5}, ladder(1, 1.6, 0.2), {0, 1}, id="min-p-cuts"),
        pytest.param({"min_p": 1.0}, ladder(1, 1.6, 0.2), {1}, id="min-p-1-keeps-the-best"),
        pytest.param({"typical_p": 0.0}, ladder(0, 5, floor=-math.inf), {1}, id="typical-with-banned-tokens"),
        pytest.param({"logit_bias": {2: 100.0}}, ladder(9, 9, 1), {2}, id="bias-forces"),
        pytest.param({"logit_bias": {0: -100.0}}, ladder(9, 7), {1}, id="bias-bans"),
        pytest.param({"logit_bias": {0: -math.inf}, "temperature": 0.0}, ladder(9, 7), {1}, id="bias-bans-in-greedy"),
        pytest.param({"mirostat": 1, "mirostat_tau": 0.1}, ladder(9, 3, 2), {0}, id="mirostat-1-low-surprise"),
        pytest.param({"mirostat": 2, "mirostat_tau": 0.1}, ladder(9, 3, 2), {0}, id="mirostat-2-low-surprise"),
        pytest.param({"mirostat": 1}, ladder(4, floor=-math.inf), {0}, id="mirostat-1-one-candidate"),
        pytest.param({"mirostat": 2, "top_k": 1}, ladder(1, 1, 1), {0, 1, 2}, id="mirostat-replaces-truncation"),
    ],
)
def test_settings_bound_the_draw(settings: dict[str, Any], logits: Floats, possible: set[int]) -> None:
    before = logits.copy()
    assert set(draws(logits, **settings)) == possible
    assert (logits == before).all()


def test_typical_drops_the_surprisingly_likely_token() -> None:
    logits = ladder(3.0, *[1.0] * 40)
    assert 0 in draws(logits)
    assert 0 not in draws(logits, typical_p=0.5)


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_steers_surprise(mirostat: int) -> None:
    logits = (np.random.default_rng(1).standard_normal(SIZE) * 2).astype(np.float32)
    total = math.log(np.exp(logits.astype(np.float64)).sum())

    def surprise(tau: float) -> float:
        drawn = draws(logits, 400, mirostat=mirostat, mirostat_tau=tau)[100:]
        return float(np.mean([(total - logits[token]) / math.log(2) for token in drawn]))

    assert surprise(3.0) + 1 < surprise(7.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_gives_the_right_distribution(temperature: float) -> None:
    logits = ladder(2.0, 1.0, 0.0, -1.0, floor=-math.inf)
    weights = np.exp(logits[:4].astype(np.float64) / temperature)
    expected = 2000 * weights / weights.sum()
    counts = np.bincount(draws(logits, 2000, temperature=temperature), minlength=4)
    assert counts.size == 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("settings", "history", "pick"),
    [
        pytest.param({}, [0, 0, 0], 0, id="off"),
        pytest.param({"repeat_penalty": 1.5}, [0], 1, id="repetition"),
        pytest.param({"repeat_penalty": 1.5, "repeat_last_n": 1}, [0, 5], 0, id="repetition-forgotten"),
        pytest.param({"repeat_penalty": 1.5, "repeat_last_n": -1}, [0, *[5] * 200], 1, id="repetition-whole-context"),
        pytest.param({"repeat_penalty": 1.5, "repeat_last_n": 0}, [0], 0, id="repetition-window-0"),
        pytest.param({"frequency_penalty": 0.4}, [0], 0, id="frequency-once"),
        pytest.param({"frequency_penalty": 0.4}, [0, 0, 0], 1, id="frequency-thrice"),
        pytest.param({"presence_penalty": 1.2}, [0], 1, id="presence"),
        pytest.param({"presence_penalty": 0.4}, [0, 0, 0], 0, id="presence-counts-once"),
        pytest.param({"presence_penalty": -2.0}, [1], 1, id="presence-rewards"),
    ],
)
@pytest.mark.parametrize("source", ["prompt", "answer"])
def test_penalties_change_the_pick(settings: dict[str, Any], history: list[int], pick: int, source: str) -> None:
    drawn = sampler(**GREEDY, **settings)
    if source == "prompt":
        drawn.accept_prompt(history)
    else:
        for token in history:
            drawn.accept(token)
    assert drawn.sample(ladder(10, 9)) == pick


@pytest.mark.parametrize(
    ("settings", "breaker", "pick"),
    [
        pytest.param({"dry_multiplier": 0.0}, False, "again", id="off"),
        pytest.param({"dry_multiplier": 1.0}, False, "other", id="breaks-the-loop"),
        pytest.param({"dry_multiplier": 1.0, "dry_allowed_length": 50}, False, "again", id="allowed-length"),
        pytest.param({"dry_multiplier": 1.0, "dry_penalty_last_n": 3}, False, "again", id="looks-back-too-little"),
        pytest.param({"dry_multiplier": 1.0}, True, "again", id="breaker-resets"),
        pytest.param({"dry_multiplier": 1.0, "dry_sequence_breakers": ()}, True, "other", id="no-breakers"),
    ],
)
def test_dry_breaks_a_repeated_sequence(
    vocab: StarterVocab, settings: dict[str, Any], breaker: bool, pick: str
) -> None:
    *colours, again, other = vocab.encode(" red green blue white black", special=False, add_bos=False)
    loop = [*colours, *(vocab.encode("\n", special=False, add_bos=False) if breaker else [])]
    drawn = Sampler(Sampling(**GREEDY, **settings), vocab.pointer, vocab.n_vocab, 4096)
    drawn.accept_prompt([*loop, again] * 4 + loop)
    logits = ladder(size=vocab.n_vocab)
    logits[again], logits[other] = 10.0, 9.5
    assert drawn.sample(logits) == (again if pick == "again" else other)


def test_dry_needs_a_vocabulary() -> None:
    with pytest.raises(InvalidJob, match="DRY"):
        sampler(dry_multiplier=0.8)


def test_draws_repeat_with_the_seed() -> None:
    logits = np.random.default_rng(2).standard_normal((50, SIZE)).astype(np.float32)

    def text(seed: int | None, index: int = 0) -> list[int]:
        drawn = Sampler(Sampling(seed=seed, temperature=1.0), None, SIZE, 4096, index)
        return [drawn.sample(row) for row in logits]

    assert text(11) == text(11)
    assert text(11, index=1) == text(12) != text(11)
    assert text(None) != text(None)


@pytest.mark.parametrize(
    ("seed", "index", "used"),
    [(5, 0, 5), (5, 2, 7), (2**32 - 1, 0, 0), (2**32 - 1, 1, 0), (2**40 + 3, 0, 3)],
)
def test_seed_is_reported(seed: int, index: int, used: int) -> None:
    assert Sampler(Sampling(seed=seed), None, SIZE, 4096, index).seed == used


def test_negative_seed_is_random() -> None:
    assert len({sampler(seed=-1).seed for _ in range(4)}) > 1


@pytest.mark.parametrize("settings", [GREEDY, NEUTRAL], ids=["greedy", "drawn"])
@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=["nan", "all-banned"])
def test_unusable_logits_are_an_error(settings: dict[str, Any], value: float) -> None:
    with pytest.raises(BackendError, match="no usable number"):
        sampler(**settings).sample(np.full(SIZE, value, np.float32))


def test_close_frees_once() -> None:
    drawn = sampler()
    drawn.close()
    drawn.close()
    del drawn


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", True),
        ("top_k", -2), ("top_k", 1.5), ("top_k", 2**31), ("top_p", 1.01), ("top_p", -1), ("min_p", 2.0),
        ("typical_p", math.nan), ("repeat_penalty", 0.0), ("repeat_penalty", -1.0), ("repeat_last_n", -2),
        ("frequency_penalty", 1e9), ("presence_penalty", -math.inf), ("dry_multiplier", -1.0), ("dry_base", 0.5),
        ("dry_allowed_length", 0), ("dry_penalty_last_n", -5), ("mirostat", 3), ("mirostat_tau", -1.0),
        ("mirostat_eta", math.nan), ("seed", 2**70), ("seed", 1.5), ("temperature", 10**400), ("top_p", "0.5"),
        ("dry_sequence_breakers", ("",)), ("dry_sequence_breakers", ("x" * 41,)),
        ("dry_sequence_breakers", ("x",) * 17),
        ("dry_sequence_breakers", ("\ud800",)), ("dry_sequence_breakers", ("a\0b",)),
        ("logit_bias", {SIZE: 1.0}), ("logit_bias", {-1: 1.0}), ("logit_bias", {0: math.nan}),
        ("logit_bias", {0: math.inf}), ("logit_bias", {0: 1e30}), ("logit_bias", dict.fromkeys(range(4097), 0.0)),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidJob, match=field) as caught:
        validate(Sampling(**{field: value}), SIZE)
    assert caught.value.hint
    assert len(str(caught.value)) < 200


numbers = st.floats() | st.integers() | st.sampled_from([0, 1, -1, 1.0, 2**31 - 1, 1e-30, math.inf])


@given(st.dictionaries(st.sampled_from([f for f in Sampling.__struct_fields__ if not f.startswith("dry_s")]), numbers))
def test_any_numbers_draw_or_are_refused(settings: dict[str, Any]) -> None:
    if isinstance(bias := settings.pop("logit_bias", None), int):
        settings["logit_bias"] = {bias: 1.0}
    logits = ladder(1, 2, 3, floor=-math.inf)
    try:
        drawn = Sampler(Sampling(**{**settings, "dry_multiplier": 0.0}), None, SIZE, 4096)
        validate(Sampling(**settings), SIZE)
    except InvalidJob:
        return
    drawn.accept_prompt([1, 2, 2])
    drawn.accept(2)
    assert drawn.sample(logits) in range(3)


def test_logprobs_are_of_the_unmodified_softmax() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0, -math.inf], np.float32)
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    report = logprobs(logits, 2, 3, lambda token: b"<%d>" % token)
    assert (report.id, report.piece) == (2, b"<2>")
    assert report.logprob == pytest.approx(exact[2], abs=1e-6)
    assert [(a.id, a.piece) for a in report.top] == [(1, b"<1>"), (3, b"<3>"), (2, b"<2>")]
    assert [a.logprob for a in report.top] == pytest.approx(exact[[1, 3, 2]], abs=1e-6)


@pytest.mark.parametrize(("top", "ids"), [(0, []), (2, [0, 1]), (99, [0, 1, 2, 3])], ids=["none", "ties-by-id", "all"])
def test_logprobs_ties_and_bounds(top: int, ids: list[int]) -> None:
    assert [a.id for a in logprobs(np.zeros(4, np.float32), 0, top, lambda token: b"").top] == ids


def test_default_chain_is_quick(vocab: StarterVocab) -> None:
    """The design's figure is 72 us at this vocabulary; a Python loop over it would take over 5,000."""
    logits = np.random.default_rng(0).standard_normal(vocab.n_vocab).astype(np.float32)
    drawn = Sampler(Sampling(seed=1), None, vocab.n_vocab, 4096)
    times = []
    for _ in range(50):
        began = thread_time()
        drawn.sample(logits)
        times.append(thread_time() - began)
    assert min(times) < 1e-3


def test_candidates_match_the_c_layout() -> None:
    assert ctypes.sizeof(llama.llama_token_data) == _CANDIDATE.itemsize
