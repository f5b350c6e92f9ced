"""OpenAI's own Python client, unchanged, against a real daemon with a real model."""

from __future__ import annotations

import base64
import json
import math
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.daemon_fixture import Daemon, wait_for

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
NAMED: Any = {"type": "function", "function": {"name": "get_time"}}
ALLOWED: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
SHORT: Any = {"model": "starter", "max_tokens": 5, "temperature": 0}


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="undefined", max_retries=0, timeout=150) as made:
        yield made


@pytest.fixture
async def eager(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0, timeout=150) as made:
        yield made


def test_an_answer_streams_to_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **SHORT)
    chunks = list(client.chat.completions.create(messages=QUESTION, stream=True, **SHORT))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content != ""
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    assert whole.model == "smollm2-135m-instruct"


def test_usage_comes_in_a_last_chunk_where_asked(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(messages=QUESTION, stream=True, stream_options=options, **SHORT))
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    last = chunks[-1].usage
    assert last is not None
    assert last.total_tokens == last.prompt_tokens + last.completion_tokens == last.prompt_tokens + 5


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", None), (NAMED, "get_time"), (ALLOWED, "get_time")],
    ids=["required", "named", "allowed"],
)
def test_a_forced_call_matches_its_schema(client: openai.OpenAI, choice: Any, name: str | None) -> None:
    ask: Any = {**SHORT, "max_tokens": 100, "messages": QUESTION, "tools": [WEATHER, CLOCK], "tool_choice": choice}
    ask["parallel_tool_calls"] = False
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert call.function.name == (name or call.function.name)
    assert arguments == {} if call.function.name == "get_time" else {"city", "unit"} == set(arguments)
    streamed = _joined(client.chat.completions.create(stream=True, **ask))
    assert streamed == (call.function.name, call.function.arguments, "tool_calls")


def _joined(chunks: Any) -> tuple[str, str, str]:
    name = arguments = reason = ""
    for chunk in chunks:
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or ():
            assert piece.index == 0
            assert (piece.id is None) == (name != ""), "the first piece alone carries the id"
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
    return name, arguments, reason


def test_a_tool_result_can_be_sent_back(client: openai.OpenAI) -> None:
    # With one call allowed it ends there, and does not repeat itself up to the limit.
    ask: Any = {**SHORT, "max_tokens": 100, "tools": [WEATHER], "parallel_tool_calls": False}
    called = client.chat.completions.create(messages=QUESTION, tool_choice="required", **ask).choices[0].message
    call = (called.tool_calls or [])[0]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear", "degrees": 21}'}
    history: Any = [*QUESTION, called, result]
    answer = client.chat.completions.create(messages=history, **{**ask, "tool_choice": "auto", "max_tokens": 16})
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 60


def test_an_answer_keeps_to_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    shape: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        messages=QUESTION, response_format=shape, **{**SHORT, "max_tokens": 60}
    ).choices[0]
    found = json.loads(answer.message.content or "")
    assert set(found) == {"name", "age"}
    assert isinstance(found["age"], int)
    assert answer.finish_reason == "stop"


def test_log_probabilities_rank_the_chosen_token_first(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, logprobs=True, top_logprobs=3, **SHORT).choices[0]
    assert answer.logprobs is not None
    content = answer.logprobs.content or []
    assert len(content) == 5
    assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].token == t.token for t in content)
    assert all(t.logprob <= 0 for t in content)
    assert b"".join(bytes(t.bytes or ()) for t in content).decode() == answer.message.content


def test_two_choices_share_a_prompt(client: openai.OpenAI) -> None:
    settings: Any = {"model": "starter", "max_tokens": 10, "temperature": 1.5, "seed": 3, "n": 2}
    answer = client.chat.completions.create(messages=QUESTION, **settings)
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    alone = client.chat.completions.create(messages=QUESTION, **{**settings, "n": 1})
    assert answer.usage is not None
    assert alone.usage is not None
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(messages=QUESTION, stream=True, stream_options=options, **settings))
    ends = [c.choices[0].index for c in chunks if c.choices and c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1]


def test_a_stop_string_ends_the_answer_and_is_left_out(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(messages=QUESTION, **SHORT).choices[0].message.content or ""
    stop = free[4:7]
    answer = client.chat.completions.create(messages=QUESTION, stop=[stop], **SHORT).choices[0]
    assert answer.message.content == free[: free.index(stop)]
    assert answer.finish_reason == "stop"


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Describe a winter evening in the harbour."}]

    def said(seed: int) -> str | None:
        settings: Any = {"model": "starter", "max_tokens": 12, "temperature": 1.0, "seed": seed}
        return client.chat.completions.create(messages=question, **settings).choices[0].message.content

    said(0)  # from here on the prompt is in the cache, and each answer takes the same steps
    first = said(1)
    assert said(1) == first
    assert {said(2), said(3)} != {first}


def test_a_completion_echoes_and_scores_its_prompt(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(prompt=prompt, echo=True, logprobs=2, **{**SHORT, "max_tokens": 3}).choices[0]
    assert answer.text.startswith(prompt)
    scored = answer.logprobs
    assert scored is not None
    assert "".join(scored.tokens or ()) == answer.text
    values = scored.token_logprobs or []
    assert values[0] is None
    assert all(v <= 0 for v in values[1:])
    assert scored.text_offset == [
        answer.text.index(t, at) for t, at in zip(scored.tokens or (), scored.text_offset or (), strict=True)
    ]
    assert all(len(top) >= 2 for top in (scored.top_logprobs or [])[1:])


def test_completions_of_several_prompts_stream(client: openai.OpenAI) -> None:
    prompts = ["One, two,", "Alpha, beta,"]
    whole = client.completions.create(prompt=prompts, **SHORT)
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(prompt=prompts, stream=True, **SHORT):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [c.text for c in whole.choices]


def test_a_model_without_the_tokens_for_it_refuses_a_suffix(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="fill-in-the-middle") as caught:
        client.completions.create(prompt="def f(", suffix="return x", **SHORT)
    assert caught.value.param == "suffix"


def test_embeddings_are_unit_vectors_in_every_form(client: openai.OpenAI, daemon: Daemon) -> None:
    texts = ["a cat sat on the mat", "a kitten sat on a rug", "quarterly tax law"]
    made = client.embeddings.create(model="starter", input=texts)
    cat, kitten, tax = (row.embedding for row in made.data)
    assert [row.index for row in made.data] == [0, 1, 2]
    assert math.isclose(math.hypot(*cat), 1, abs_tol=1e-5)
    assert _dot(cat, kitten) > _dot(cat, tax)
    floats = client.embeddings.create(model="starter", input=texts[0], encoding_format="float").data[0].embedding
    assert floats == pytest.approx(cat, abs=2e-3)
    raw = daemon.ask("POST", "/v1/embeddings", {"input": texts[0], "encoding_format": "base64"}).json["data"][0]
    assert list(array("f", base64.b64decode(raw["embedding"]))) == pytest.approx(floats, abs=2e-3)
    short = client.embeddings.create(model="starter", input=texts[0], dimensions=16).data[0].embedding
    assert len(short) == 16
    assert math.isclose(math.hypot(*short), 1, abs_tol=1e-5)
    tokens = client.embeddings.create(model="starter", input=[[504, 3575], [28]])
    assert len(tokens.data) == 2
    assert tokens.usage.prompt_tokens == 3


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert listed[0].id == "smollm2-135m-instruct"
    for name in ("smollm2-135m-instruct", "starter", "default", "claude-sonnet"):
        assert client.models.retrieve(name).id == listed[0].id


def test_an_unknown_model_names_the_nearest(client: openai.OpenAI) -> None:
    wrong = "smollm2-135m-instuct"
    with pytest.raises(openai.NotFoundError, match="did you mean 'smollm2-135m-instruct'") as caught:
        client.chat.completions.create(messages=QUESTION, **{**SHORT, "model": wrong})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="did you mean 'smollm2-135m-instruct'"):
        client.models.retrieve(wrong)


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(messages=long, **SHORT)
    body: Any = caught.value.body
    assert caught.value.code == "context_length_exceeded"
    assert body["n_prompt_tokens"] > body["n_ctx"] == 8192


async def test_the_asynchronous_client_streams(eager: openai.AsyncOpenAI) -> None:
    stream = await eager.chat.completions.create(messages=QUESTION, stream=True, **SHORT)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts)


def test_closing_a_stream_stops_the_engine(client: openai.OpenAI, daemon: Daemon) -> None:
    begun = time.time()
    stream = client.chat.completions.create(
        model="starter", messages=QUESTION, max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
    )
    for number, _ in enumerate(stream):
        if number == 5:
            break
    stream.close()
    row = wait_for(lambda: next((row for row in daemon.rows("queries") if row["started"] >= begun), None))
    assert row["finish"] == "cancelled"
    assert {e["users"] for e in daemon.engines()} == {0}
