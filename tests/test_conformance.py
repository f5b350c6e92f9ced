"""One table for every backend, through a real child: answers, sharing, limits, what ends them.

What is said is asked of the starter model, how it is computed of its first layers alone.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from backends import registry
from backends.contract import Adapter, Grammar, Job, Load, Sampling, StepRecord, Token
from backends.errors import InvalidJob, PromptTooLong
from backends.handle import EngineHandle
from backends.kv_frames import KvGrant
from tests.engine_runs import GREEDY, STARTER, Answer, ask, engine, order

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEAR = 0.15
"""Two logits this close may change places between step schedules: nats, from repeated runs."""
QUESTIONS = [
    f"What is {subject}?" for subject in ("water", "a tree", "music", "the sun", "rain", "a book", "bread", "a dog")
]
STEPS: list[StepRecord] = []


ENGINES = ("llama.cpp", "onnx", "mlx:host")
"""MLX's own products are too slow on a Linux CPU for so many questions; `test_mlx` asks it a few."""


def ordered(path: Path, backend: str, cache: str, **fields: Any) -> Load:
    name, _, mode = backend.partition(":")
    threads = 1 if name == "mlx" else 2  # numpy's threads wait for each other by spinning
    return order(path, name, **{"mode": mode, "threads": threads, "cache": cache} | fields)


async def test_every_backend_is_in_the_table() -> None:
    assert {name.partition(":")[0] for name in ENGINES} == set(registry.NAMES)


@pytest.fixture(scope="module", params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("derived"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def starter(backend: str, cache: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineHandle]:
    load = ordered(STARTER, backend, cache)
    async with engine(load, tmp_path_factory.mktemp("starter"), STEPS) as handle:
        yield handle


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def small(
    backend: str, cache: str, shallow: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineHandle]:
    async with engine(ordered(shallow, backend, cache), tmp_path_factory.mktemp("small"), STEPS) as handle:
        yield handle


def needs(handle: EngineHandle, capability: str) -> None:
    if capability not in handle.info.capabilities:
        pytest.skip(f"{handle.info.backend} says that it cannot {capability}")


async def chat(handle: EngineHandle, question: str) -> list[int]:
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return await handle.tokenize(text, special=True, add_bos=False)


def same_but_for_near_ties(one: Answer, other: Answer, index: int = 0, near: float = NEAR) -> bool:
    """Equal ids, or a first difference where the two candidates were nearly as likely."""
    for a, b in zip(one.tokens[index], other.tokens[index], strict=False):
        if a.id != b.id:
            assert a.logprob is not None
            scores = {c.id: c.logprob for c in a.logprob.top}
            return b.id in scores and scores[a.id] - scores[b.id] < near
    return len(one.tokens[index]) == len(other.tokens[index])


async def test_the_capital_of_france(starter: EngineHandle) -> None:
    answer = await ask(starter, await chat(starter, "What is the capital of France?"), max_tokens=20)
    assert "Paris" in answer.text
    assert answer.end.reason == "stop"
    assert answer.end.usage.completion_tokens == len(answer.ids())


async def test_a_seed_repeats_its_text(small: EngineHandle) -> None:
    prompt = await chat(small, "Tell me a story.")
    warm = Sampling(temperature=1.0, seed=7)
    await ask(small, prompt, max_tokens=1)
    first, second = [await ask(small, prompt, sampling=warm, max_tokens=24) for _ in range(2)]
    other = await ask(small, prompt, sampling=Sampling(temperature=1.0, seed=8), max_tokens=24)
    assert first.ids() == second.ids() != other.ids()


async def test_eight_at_once_answer_as_each_alone(small: EngineHandle) -> None:
    prompts = [await chat(small, question) for question in QUESTIONS]
    fields: dict[str, Any] = {"max_tokens": 12, "logprobs": 5}
    alone = [await ask(small, prompt, **fields) for prompt in prompts]
    together = await asyncio.gather(*(ask(small, prompt, **fields) for prompt in prompts))
    assert all(same_but_for_near_ties(a, b) for a, b in zip(alone, together, strict=True))
    assert max(len(step.shares) for step in STEPS) >= 8


async def test_choices_share_the_prompt(small: EngineHandle) -> None:
    prompt = await chat(small, "Name an animal that lives in the deep sea.")
    warm = Sampling(temperature=1.0, seed=3)
    STEPS.clear()
    first = await ask(small, prompt, sampling=warm, n=3, max_tokens=16)
    prefilled = sum(share.prefilled for step in STEPS for share in step.shares)
    assert prefilled + first.end.usage.cached_tokens == len(prompt)
    assert len({first.texts[index] for index in range(3)}) > 1
    assert {end.usage.prompt_tokens for end in first.ends.values()} == {len(prompt)}
    second = await ask(small, prompt, sampling=warm, n=3, max_tokens=16)
    assert [first.ids(i)[0] for i in range(3)] == [second.ids(i)[0] for i in range(3)]


async def test_a_chunked_prefill_ends_like_a_whole_one(
    small: EngineHandle, shallow: Path, backend: str, cache: str, tmp_path: Path
) -> None:
    words = " ".join(f"{number} birds" for number in range(300))
    prompt = (await small.tokenize(words, special=False, add_bos=False))[:560]
    fields: dict[str, Any] = {"max_tokens": 6, "logprobs": 5}
    large = await ask(small, prompt, **fields)
    steps: list[StepRecord] = []
    async with engine(ordered(shallow, backend, cache), tmp_path, steps) as handle:
        stream = handle.run(Job(id=0, tokens=prompt[7:40], sampling=GREEDY, max_tokens=2000, ignore_eos=True))
        while not isinstance(await anext(stream), Token):
            pass
        # Beside a stream the prompt comes in pieces.
        chunked = await ask(handle, prompt, **fields)
        await stream.aclose()
    assert sum(any(share.prefilled > 1 for share in step.shares) for step in steps) > 2
    assert same_but_for_near_ties(large, chunked)
    again = await ask(small, prompt, **fields)
    assert again.end.usage.cached_tokens == len(prompt) - 1
    assert same_but_for_near_ties(large, again)


async def test_a_long_conversation_keeps_its_prefix(shallow: Path, backend: str, cache: str, tmp_path: Path) -> None:
    async with engine(ordered(shallow, backend, cache, n_ctx=512), tmp_path) as handle:
        prompt = (await handle.tokenize("one two three four five " * 100, special=False, add_bos=False))[:400]
        await ask(handle, prompt, max_tokens=4)
        longer = await ask(handle, [*prompt, *prompt[:50]], max_tokens=4)
    assert longer.end.usage.cached_tokens >= 400


@pytest.mark.parametrize("stop", ["al of Fr", "is", "The capital", "nce is Paris."])
async def test_stop_strings_cross_token_borders(starter: EngineHandle, stop: str) -> None:
    prompt = await chat(starter, "What is the capital of France?")
    full = await ask(starter, prompt, max_tokens=20)
    cut = await ask(starter, prompt, max_tokens=20, stop=(stop,))
    assert cut.text == full.text[: full.text.index(stop)]
    assert (cut.end.reason, cut.end.stop) == ("stop", stop)


async def test_logprobs_are_those_of_a_distribution(starter: EngineHandle) -> None:
    prompt = await chat(starter, "What is the capital of France?")
    answer = await ask(starter, prompt, max_tokens=3, logprobs=50, prompt_logprobs=2)
    for token in answer.tokens[0]:
        assert token.logprob is not None
        values = [one.logprob for one in token.logprob.top]
        assert values == sorted(values, reverse=True)
        assert 0.5 < float(np.exp(values).sum()) <= 1.0 + 1e-4
        assert token.logprob.logprob == values[0]
    assert [one.id for one in answer.prompt] == prompt[1:]
    assert all(len(one.top) == 2 and one.logprob is not None and one.logprob <= 0 for one in answer.prompt)


async def test_nothing_to_generate(starter: EngineHandle) -> None:
    answer = await ask(starter, await chat(starter, "Hello"), max_tokens=0)
    assert (answer.text, answer.ids(), answer.end.reason) == ("", [], "length")


async def test_embeddings_do_not_depend_on_company(small: EngineHandle) -> None:
    texts = ["A cat sat on the mat.", "Stocks fell sharply today.", "word " * 80]
    prompts = [await small.tokenize(text, special=False, add_bos=False) for text in texts]

    async def embed(prompt: list[int]) -> np.ndarray[Any, Any]:
        answer = await ask(small, prompt, kind="embed")
        assert answer.embedding is not None
        return np.frombuffer(answer.embedding.vector, "<f4")

    alone = [await embed(prompt) for prompt in prompts]
    again = [await embed(prompt) for prompt in prompts]
    *together, _ = await asyncio.gather(*map(embed, prompts), ask(small, prompts[0], max_tokens=20))
    for one, two, three in zip(alone, again, together, strict=True):
        assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
        assert np.array_equal(one, two) or float(one @ two) > 0.9999
        assert float(one @ three) > 0.999
    assert float(alone[0] @ alone[1]) < 0.999


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"name", "age"} and isinstance(value["age"], int)


@pytest.mark.parametrize(
    ("kind", "source", "holds"),
    [
        pytest.param("json_schema", json.dumps(SCHEMA), is_person, id="schema"),
        pytest.param("regex", r"[0-9]{3}-[a-f]{2}", re.compile(r"[0-9]{3}-[a-f]{2}").fullmatch, id="regex"),
        pytest.param("lark", 'start: "yes" | "no"', {"yes", "no"}.__contains__, id="lark"),
        pytest.param("gbnf", 'root ::= "red" | "blue"', {"red", "blue"}.__contains__, id="gbnf"),
    ],
)
async def test_grammars_hold(starter: EngineHandle, kind: Any, source: str, holds: Any) -> None:
    prompt = await chat(starter, "Describe a person as JSON.")
    hot = Sampling(temperature=1.5, seed=1, top_k=0, top_p=1.0, min_p=0.0)
    answer = await ask(starter, prompt, sampling=hot, grammar=Grammar(kind, source), max_tokens=120, n=2)
    assert {end.reason for end in answer.ends.values()} == {"stop"}
    assert all(holds(answer.texts[index]) for index in range(2)), answer.texts


async def test_the_end_can_be_ignored_and_tokens_banned(starter: EngineHandle) -> None:
    prompt = await chat(starter, "What is the capital of France?")
    plain = await ask(starter, prompt, max_tokens=20)
    longer = await ask(starter, prompt, max_tokens=20, ignore_eos=True)
    assert (longer.end.reason, len(longer.ids())) == ("length", 20)
    banned = Sampling(temperature=0.0, logit_bias={plain.ids()[0]: float("-inf")})
    assert (await ask(starter, prompt, max_tokens=1, sampling=banned)).ids() != plain.ids()[:1]


async def test_a_prompt_over_the_context_is_refused_with_both_numbers(starter: EngineHandle) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await ask(starter, [1] * 5000)
    assert (caught.value.prompt_tokens, caught.value.context) == (5000, 4096)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"tokens": []}, id="no tokens"),
        pytest.param({"tokens": [-1]}, id="negative id"),
        pytest.param({"tokens": [10**9]}, id="id beyond the vocabulary"),
        pytest.param({"n": 0}, id="no choices"),
        pytest.param({"n": 1000}, id="too many choices"),
        pytest.param({"kind": "embed", "n": 2}, id="several embeddings"),
        pytest.param({"max_tokens": -1}, id="negative max_tokens"),
        pytest.param({"adapters": (Adapter("x", 0.0),)}, id="adapter of no scale"),
        pytest.param({"sampling": Sampling(temperature=float("nan"))}, id="not a number"),
        pytest.param({"sampling": Sampling(top_k=2**70)}, id="more than 64 bits"),
        pytest.param({"sampling": Sampling(logit_bias={-5: 1.0})}, id="bias on no token"),
        pytest.param({"stop": ("\ud800",)}, id="stop that is not UTF-8"),
        pytest.param({"grammar": Grammar("regex", "(")}, id="broken regex"),
        pytest.param({"grammar": Grammar("json_schema", "{")}, id="broken schema"),
        pytest.param({"grammar": Grammar("lark", "start: nowhere")}, id="broken lark"),
        pytest.param({"grammar": Grammar("gbnf", "root ::= (")}, id="broken gbnf"),
    ],
)
async def test_invalid_jobs_are_refused_alone(starter: EngineHandle, fields: dict[str, Any]) -> None:
    job: dict[str, Any] = {"tokens": [1, 2, 3], "max_tokens": 1} | fields
    with pytest.raises(InvalidJob) as caught:
        await ask(starter, **job)
    assert caught.value.message
    assert (await ask(starter, [1, 2, 3], max_tokens=1)).end.reason == "length"
    assert starter.busy == 0


async def test_text_that_is_not_utf8_is_tokenized(starter: EngineHandle) -> None:
    ids = await starter.tokenize("a\ud800b", special=False, add_bos=False)
    assert await starter.detokenize(ids) == "a\ufffdb"


async def test_a_cancelled_job_leaves_the_next_steps(small: EngineHandle) -> None:
    prompt = await chat(small, "Count to one hundred.")
    beside = asyncio.create_task(ask(small, prompt, max_tokens=48, ignore_eos=True))
    events = small.run(Job(id=0, tokens=prompt, sampling=GREEDY, ignore_eos=True, max_tokens=2000))
    job = 0
    async for event in events:
        if isinstance(event, Token) and event.index == 0:
            job = event.job
            break
    await events.aclose()
    STEPS.clear()
    await beside
    used = [any(share.job == job for share in step.shares) for step in STEPS]
    # It leaves at the child's next step; a few of the last ones may have been under way to a parent that was late.
    assert not any(used[len(used) // 2 :])
    assert used == sorted(used, reverse=True)


async def test_a_deadline_ends_with_what_there_is(starter: EngineHandle) -> None:
    prompt = await chat(starter, "Count to one hundred.")
    for deadline in (0.4, 3.0, 20.0):
        answer = await ask(starter, prompt, ignore_eos=True, deadline=deadline)
        assert answer.end.reason == "deadline"
        if answer.ids():
            break
    assert 0 < len(answer.ids()) < 400


async def test_full_cells_set_back_and_lose_nothing(shallow: Path, backend: str, cache: str, tmp_path: Path) -> None:
    steps: list[StepRecord] = []
    # llama.cpp has no fewer cells than 256.
    part = 1 if backend.startswith("mlx") else 2
    fields: dict[str, Any] = {"max_tokens": 30 * part, "ignore_eos": True, "logprobs": 5}
    async with engine(ordered(shallow, backend, cache, n_ctx=128 * part), tmp_path, steps) as handle:
        texts = [f"{question} Tell me in detail. " * 20 for question in QUESTIONS[:3]]
        prompts = [(await handle.tokenize(text, special=False, add_bos=False))[: 20 * part] for text in texts]
        steps.clear()
        together = await asyncio.gather(*(ask(handle, prompt, **fields) for prompt in prompts))
        prefilled = sum(share.prefilled for step in steps for share in step.shares)
        alone = [await ask(handle, prompt, **fields) for prompt in prompts]
    assert prefilled > sum(map(len, prompts)), "somebody was set back"
    for answer, prompt in zip(together, prompts, strict=True):
        assert (answer.end.usage.prompt_tokens, answer.end.usage.completion_tokens) == (len(prompt), 30 * part)
    assert all(same_but_for_near_ties(a, b) for a, b in zip(alone, together, strict=True))


async def test_more_choices_wait_than_the_engine_has_numbers_for(small: EngineHandle) -> None:
    prompts = [await chat(small, question) for question in QUESTIONS]
    warm = Sampling(temperature=1.0, seed=1)
    answers = await asyncio.gather(*(ask(small, p, sampling=warm, n=8, max_tokens=2) for p in prompts))
    assert all(len(answer.ends) == 8 for answer in answers)


async def test_an_arrival_interrupts_a_long_step_and_changes_nothing(starter: EngineHandle) -> None:
    needs(starter, "interrupt")
    words = "The quick brown fox jumps over the lazy dog. " * 40
    prompt = await starter.tokenize(f"Interrupted. {words}", special=False, add_bos=False)
    long = asyncio.create_task(ask(starter, prompt, max_tokens=8))
    await asyncio.sleep(0.05)
    await ask(starter, await chat(starter, "What is a step?"), max_tokens=1, priority="interactive")
    assert not long.done()
    interrupted = await long
    fresh = await ask(starter, prompt, max_tokens=8, prompt_logprobs=0)
    assert fresh.end.usage.cached_tokens == 0
    assert same_but_for_near_ties(interrupted, fresh)


async def test_an_idle_conversation_comes_back_from_ram(
    shallow: Path, backend: str, cache: str, tmp_path: Path
) -> None:
    async with engine(ordered(shallow, backend, cache, n_ctx=1024, kv=KvGrant(ram=64 << 20)), tmp_path) as handle:
        prompt = (await handle.tokenize("one two three four five " * 100, special=False, add_bos=False))[:300]
        alone = await ask(handle, prompt, max_tokens=8)
        await ask(handle, await chat(handle, "What is water?"), max_tokens=4)
        again = await ask(handle, prompt, max_tokens=8)
        usage = again.end.usage
        assert (usage.cached_tokens, usage.cached_by_tier) == (len(prompt) - 1, {"ram": len(prompt) - 1})
        assert same_but_for_near_ties(alone, again)
