"""LoRA adapters on the starter, in a real child: they do what merging does, share nothing, and bad ones harm nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from backends.contract import Adapter, StepRecord, TokenLogprob
from backends.errors import BackendError, InvalidJob, ModelFileError, UnsupportedModel
from backends.handle import EngineHandle
from backends.lora import ADAPTERS_KEPT
from tests.engine_runs import STARTER, Answer, ask, engine, order
from tests.gguf_files import gguf_bytes, llama_with
from tests.lora_files import TARGETS, factors, merged, write_lora
from tests.test_conformance import chat, same_but_for_near_ties
from tests.tiny_models import shallow_starter

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEAR = 0.3
"""As in the tests of the engine; random adapters make the model less sure, so more tokens come close."""
STEPS: list[StepRecord] = []
FIELDS: dict[str, Any] = {"max_tokens": 16, "logprobs": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    write_lora(made / "one.gguf", factors(1))
    write_lora(made / "two.gguf", factors(2), half=True)
    return made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def starter(folder: Path) -> AsyncIterator[EngineHandle]:
    async with engine(order(STARTER, "llama.cpp", threads=2), folder, STEPS) as handle:
        yield handle


def under(folder: Path, *names: str, scale: float = 1.0) -> dict[str, Any]:
    return {"adapters": tuple(Adapter(str(folder / f"{name}.gguf"), scale) for name in names)}


def distance(one: Answer, other: Answer) -> float:
    """Mean difference of the prompt's log-probabilities, in nats."""
    pairs = zip(one.prompt[1:], other.prompt[1:], strict=True)
    return float(np.mean([abs(a.logprob - b.logprob) for a, b in pairs if a.logprob is not None and b.logprob]))


def same_choice(one: TokenLogprob, other: TokenLogprob) -> bool:
    """The likeliest token is the same, or the other's choice came close: merged weights round otherwise."""
    scores = {candidate.id: candidate.logprob for candidate in one.top}
    return scores[one.top[0].id] - scores.get(other.top[0].id, float("-inf")) < 2 * NEAR


async def test_two_adapters_give_what_merging_them_gives(tmp_path: Path) -> None:
    base = shallow_starter(tmp_path / "base.gguf", layers=6)
    targets = tuple(f"blk.{layer}.{name}.weight" for layer in (0, 2, 4) for name in ("attn_q", "attn_v", "ffn_down"))
    scales = {1: 0.5, 2: 0.75}
    deltas: dict[str, Any] = {}
    for seed, scale in scales.items():
        for target, (a, b) in factors(seed, targets=targets).items():
            deltas[target] = deltas.get(target, 0.0) + scale * 8.0 / 4 * (b @ a)
        write_lora(tmp_path / f"{seed}.lora", factors(seed, targets=targets), half=seed == 2)
    adapters = tuple(Adapter(str(tmp_path / f"{seed}.lora"), scale) for seed, scale in scales.items())
    fields: dict[str, Any] = {"max_tokens": 1, "prompt_logprobs": 5}
    answers = []
    text = "The quick brown fox jumps over the lazy dog. Water boils at one hundred degrees. " * 3
    for name, changes in (("plain", {}), ("merged", deltas)):
        path = merged(tmp_path / f"{name}.gguf", base, changes, targets)
        async with engine(order(path, "llama.cpp", threads=2), tmp_path) as handle:
            prompt = await handle.tokenize(text, special=False, add_bos=False)
            answers.append(await ask(handle, prompt, **fields))
            if name == "plain":
                answers.append(await ask(handle, prompt, adapters=adapters, **fields))
    plain, adapted, whole = answers
    assert distance(plain, whole) > 0.3
    assert distance(adapted, whole) < 0.1 * distance(plain, whole)
    assert all(same_choice(a, b) for a, b in zip(adapted.prompt[1:], whole.prompt[1:], strict=True))
    assert not all(same_choice(a, b) for a, b in zip(plain.prompt[1:], whole.prompt[1:], strict=True))


async def test_adapters_and_the_base_at_once_answer_as_each_alone(starter: EngineHandle, folder: Path) -> None:
    prompts = [await chat(starter, f"What is {subject}?") for subject in ("water", "music")]
    jobs = [(p, under(folder, *names)) for p in prompts for names in ((), ("one",), ("two",))]
    alone = [await ask(starter, prompt, **adapted, **FIELDS) for prompt, adapted in jobs]
    assert len({answer.text for answer in alone}) == len(jobs)
    STEPS.clear()
    together = await asyncio.gather(*(ask(starter, prompt, **adapted, **FIELDS) for prompt, adapted in jobs))
    assert all(same_but_for_near_ties(a, b, near=NEAR) for a, b in zip(alone, together, strict=True))
    group = {answer.end.job: number % 3 for number, answer in enumerate(together)}
    used = [{group[share.job] for share in step.shares} for step in STEPS]
    assert all(len(groups) == 1 for groups in used)
    changes = sum(step.switch_s is not None for step in STEPS)
    assert 2 <= changes < len(STEPS)


async def test_a_prefix_is_computed_anew_under_another_adapter(starter: EngineHandle, folder: Path) -> None:
    prompt = await chat(starter, "Tell me which prefix of this long and winding question you have seen before.")
    first = await ask(starter, prompt, **under(folder, "one"), **FIELDS)
    other = await ask(starter, prompt, **under(folder, "two"), **FIELDS)
    base = await ask(starter, prompt, **FIELDS)
    again = await ask(starter, prompt, **under(folder, "one"), **FIELDS)
    assert [a.end.usage.cached_tokens for a in (first, other, base, again)] == [0, 0, 0, len(prompt) - 1]
    assert same_but_for_near_ties(first, again, near=NEAR)
    assert len({first.text, other.text, base.text}) == 3


async def test_a_file_that_changed_is_loaded_again(starter: EngineHandle, tmp_path: Path) -> None:
    prompt = await chat(starter, "What is a tide?")
    answers = []
    for seed in (5, 6):
        path = write_lora(tmp_path / "same.gguf", factors(seed))
        stamped = (Adapter(str(path), 1.0, f"version {seed}"),)
        answers.append(await ask(starter, prompt, adapters=stamped, **FIELDS))
    assert answers[0].text != answers[1].text
    assert answers[1].end.usage.cached_tokens == 0


async def test_more_adapters_than_are_kept(starter: EngineHandle, tmp_path: Path) -> None:
    prompt = await chat(starter, "What is a cloud?")
    names = [f"n{number}" for number in range(ADAPTERS_KEPT + 3)]
    for number, name in enumerate(names):
        write_lora(tmp_path / f"{name}.gguf", factors(20 + number))
    fields = {"max_tokens": 4, "logprobs": 5, "ignore_eos": True}
    first = [await ask(starter, prompt, **under(tmp_path, name), **fields) for name in names]
    together = await asyncio.gather(*(ask(starter, prompt, **under(tmp_path, name), **fields) for name in names))
    assert all(same_but_for_near_ties(a, b, near=NEAR) for a, b in zip(first, together, strict=True))


Write = Callable[[Path], object]


def changed(replace: dict[str, tuple[int, int]] | None = None, **metadata: Any) -> Write:
    """An adapter with the halves of `replace` given another shape, and with metadata changed."""

    def write(path: Path) -> None:
        pairs = factors(3)
        for name, shape in (replace or {}).items():
            target, _, side = name.rpartition(".")
            halves = list(pairs[target])
            halves["ab".index(side)] = np.ones(shape, np.float32)
            pairs[target] = (halves[0], halves[1])
        write_lora(path, pairs, **metadata)

    return write


def poisoned(path: Path) -> None:
    pairs = factors(3)
    pairs[TARGETS[0]][1][7, 2] = np.nan
    write_lora(path, pairs)


def raw(tensors: Sequence[tuple[str, tuple[int, ...], int]], **metadata: Any) -> Write:
    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    keys |= {name.replace("__", "."): value for name, value in metadata.items()}
    return lambda path: path.write_bytes(gguf_bytes(keys, list(tensors)))


def cut(path: Path) -> None:
    path.write_bytes((path.parent / "one.gguf").read_bytes()[:-500])


def renamed(target: str) -> Write:
    return lambda path: write_lora(path, {target: factors(3)[TARGETS[0]]})


Q = "blk.0.attn_q.weight"
PAIR = [(f"{Q}.lora_a", (576, 4), 0), (f"{Q}.lora_b", (4, 576), 0)]
EMBEDDING = [("token_embd.weight.lora_a", (4, 49152), 0), ("token_embd.weight.lora_b", (4, 576), 0)]
BAD: dict[str, tuple[Write, type[BackendError], str]] = {
    "no file": (lambda path: None, ModelFileError, "is not a file"),
    "text": (lambda path: path.write_text("hello"), ModelFileError, "does not begin with GGUF"),
    "cut short": (
        lambda path: path.write_bytes((path.parent / "one.gguf").read_bytes()[:-500]),
        ModelFileError,
        "trunc",
    ),
    "a model": (lambda path: path.write_bytes(llama_with()), ModelFileError, "no adapter but a model"),
    "another kind of adapter": (changed(adapter__type="control"), UnsupportedModel, "type control"),
    "another architecture": (changed(general__architecture="qwen2"), UnsupportedModel, "is for qwen2 models"),
    "another width": (changed({f"{TARGETS[0]}.a": (4, 896)}), UnsupportedModel, "896 x 4"),
    "another height": (changed({f"{TARGETS[0]}.b": (64, 4)}), UnsupportedModel, "4 x 64"),
    "ranks that differ": (changed({f"{TARGETS[0]}.a": (8, 576)}), UnsupportedModel, "576 x 8 and 4 x 576"),
    "a layer too many": (renamed("blk.99.attn_q.weight"), UnsupportedModel, "no tensor blk.99.attn_q.weight"),
    "a vector": (renamed("blk.0.attn_norm.weight"), UnsupportedModel, "no matrix"),
    "tied embeddings": (raw(EMBEDDING), UnsupportedModel, "output matrix"),
    "a whole tensor": (raw([*PAIR, ("blk.0.attn_norm.weight", (576,), 0)]), UnsupportedModel, "replaces"),
    "half a pair": (raw(PAIR[:1]), ModelFileError, "one half"),
    "no tensors": (raw([]), ModelFileError, "no tensors"),
    "integers": (raw([(n, s, 26) for n, s, _ in PAIR]), UnsupportedModel, "I32"),
    "a third axis": (raw([(n, (*s, 2), 0) for n, s, _ in PAIR]), UnsupportedModel, "576 x 4 x 2"),
    "rank nothing": (raw([(PAIR[0][0], (576, 0), 0), (PAIR[1][0], (0, 576), 0)]), UnsupportedModel, "576 x 0"),
    "alpha of another type": (raw(PAIR, adapter__lora__alpha=("float64", 1.0)), ModelFileError, "alpha"),
    "alpha that is text": (raw(PAIR, adapter__lora__alpha="much"), ModelFileError, "alpha"),
    "alpha without end": (raw(PAIR, adapter__lora__alpha=("float32", float("inf"))), ModelFileError, "alpha"),
    "type that is a number": (raw(PAIR, adapter__type=("uint32", 1)), ModelFileError, "adapter.type"),
    "activated": (
        raw(PAIR, adapter__alora__invocation_tokens=("uint32", [1, 2])),
        UnsupportedModel,
        "activated",
    ),
    "a value that is no number": (poisoned, ModelFileError, "no numbers"),
}


@pytest.mark.parametrize(("write", "error", "said"), BAD.values(), ids=BAD.keys())
async def test_adapters_that_do_not_fit_are_refused(
    starter: EngineHandle, folder: Path, write: Write, error: type[BackendError], said: str
) -> None:
    path = folder / "bad.gguf"
    path.unlink(missing_ok=True)
    write(path)
    with pytest.raises(error) as caught:
        await ask(starter, [1, 2, 3], max_tokens=1, **under(folder, "bad"))
    assert said in caught.value.message
    assert "bad.gguf" in caught.value.message
    assert str(folder) not in caught.value.message
    assert caught.value.hint
    assert (await ask(starter, [1, 2, 3], max_tokens=1)).end.reason == "length"
    assert starter.died is None


@pytest.mark.parametrize(
    ("names", "scale"),
    [(("one",), 0.0), (("one",), float("nan")), (("one",), 1e9), (("one", "one"), 1.0), (("one",) * 5, 1.0)],
    ids=["no scale", "no number", "huge", "twice", "too many"],
)
async def test_bad_choices_are_refused(
    starter: EngineHandle, folder: Path, names: tuple[str, ...], scale: float
) -> None:
    with pytest.raises(InvalidJob):
        await ask(starter, [1, 2, 3], max_tokens=1, **under(folder, *names, scale=scale))


async def test_weights_beyond_all_measure_do_not_kill_the_engine(starter: EngineHandle, folder: Path) -> None:
    write_lora(folder / "huge.gguf", factors(3, strength=1e37))
    try:
        await ask(starter, [1, 2, 3], max_tokens=3, **under(folder, "huge"))
    except BackendError:
        pass
    assert (await ask(starter, [1, 2, 3], max_tokens=1)).end.reason == "length"
