"""Ollama's own Python client, unchanged, against a real daemon with a real model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.daemon_fixture import Daemon

ollama = pytest.importorskip("ollama", reason="the `ollama` package is not installed")

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SHORT: Any = {"model": "starter", "options": {"num_predict": 5, "temperature": 0, "num_ctx": 2048}}
NAMED: Any = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    made = ollama.Client(host=daemon.url, timeout=150)
    with closing(made._client):
        yield made


@pytest.fixture
def own(daemon: Daemon) -> Iterator[Any]:
    """The client over the Unix socket, where models may be changed."""
    made = ollama.Client(host="http://localhost", transport=httpx.HTTPTransport(uds=str(daemon.socket)))
    with closing(made._client):
        yield made


def test_a_chat_streams_to_the_same_text(client: Any) -> None:
    whole = client.chat(messages=QUESTION, **SHORT)
    chunks = list(client.chat(messages=QUESTION, stream=True, **SHORT))
    assert "".join(c.message.content for c in chunks) == whole.message.content != ""
    assert [c.done for c in chunks] == [False] * (len(chunks) - 1) + [True]
    for end in (whole, chunks[-1]):
        assert (end.done_reason, end.eval_count, end.model) == ("length", 5, "starter")
        assert end.total_duration >= end.eval_duration > 0
        assert end.prompt_eval_count > 5


def test_generate_remembers_by_its_context(client: Any) -> None:
    first = client.generate(prompt="My name is Ada.", **SHORT)
    again = client.generate(prompt="What is my name?", context=first.context, **SHORT)
    assert again.prompt_eval_count > first.prompt_eval_count + 5
    with pytest.raises(ollama.ResponseError, match="not one that this daemon gave"):
        client.generate(prompt="x", context=[1, 2, 3], **SHORT)


def test_a_raw_prompt_meets_no_template(client: Any) -> None:
    plain = client.generate(prompt="Paris is the capital of", raw=True, **SHORT)
    assert plain.prompt_eval_count <= 6
    assert plain.context is None


@pytest.mark.parametrize("form", ["json", NAMED], ids=["json", "schema"])
def test_an_answer_has_the_asked_form(client: Any, form: Any) -> None:
    options = {"num_predict": 40, "temperature": 0}
    text = client.chat("starter", QUESTION, format=form, options=options).message.content
    assert text.lstrip().startswith(("{", "["))
    assert form == "json" or '"Paris"' in text


def test_models_are_listed_and_described(client: Any) -> None:
    client.generate(model="starter")
    (row,) = [m for m in client.list().models if m.model == "smollm2-135m-instruct"]
    assert row.size > 90_000_000
    assert len(row.digest) == 64
    assert row.details.family == "llama"
    shown = client.show("starter")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "temperature 0.1" in shown.parameters
    (running,) = [m for m in client.ps().models if m.model == row.model]
    assert running.context_length == 8192
    assert running.expires_at > row.modified_at


def test_an_idle_model_is_unloaded_on_request(client: Any) -> None:
    assert client.generate(model="starter").done_reason == "load"
    assert client.generate(model="starter", keep_alive=0).done_reason == "unload"
    assert "smollm2-135m-instruct" not in [m.model for m in client.ps().models]


def test_a_model_of_ones_own_is_made_used_and_removed(own: Any, client: Any) -> None:
    statuses = own.create(
        "pirate", from_="starter", system="You are a pirate.", parameters={"num_ctx": 4096, "stop": "!"}
    )
    assert statuses.status == "success"
    own.copy("pirate", "captain")
    try:
        assert {"pirate", "captain"} <= {m.model for m in client.list().models}
        assert client.show("captain").modelfile.count("pirate") == 1
        with_system = client.chat("captain", QUESTION, options={"num_predict": 2, "temperature": 0})
        assert with_system.model == "captain"
        without = client.chat(messages=QUESTION, **SHORT)
        assert with_system.prompt_eval_count > without.prompt_eval_count
    finally:
        own.delete("captain")
        own.delete("pirate")
    with pytest.raises(ollama.ResponseError, match="no model named"):
        client.show("pirate")


def test_what_is_here_is_pulled_at_once(client: Any) -> None:
    assert client.pull("starter").status == "success"
    assert [p.status for p in client.pull("starter:latest", stream=True)] == ["success"]


@pytest.mark.parametrize("call", ["pull", "create", "copy", "delete"])
def test_strangers_change_no_models(client: Any, call: str) -> None:
    arguments: Any = {
        "pull": ("qwen3-0.6b",),
        "create": ("x", None, "starter"),
        "copy": ("starter", "y"),
        "delete": ("starter",),
    }
    with pytest.raises(ollama.ResponseError, match="scope admin") as caught:
        getattr(client, call)(*arguments[call])
    assert caught.value.status_code == 403


def test_tools_come_back_as_objects(client: Any) -> None:
    tool: Any = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": NAMED}}
    call = {"function": {"name": "now", "arguments": {"city": "Paris"}}}
    said: Any = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
    said.append({"role": "tool", "content": "noon", "tool_name": "now"})
    assert client.chat(messages=said, tools=[tool], **SHORT).done


def test_a_text_has_one_vector(daemon: Daemon) -> None:
    answer = daemon.ask("POST", "/api/embed", {"model": daemon.echo("e.txt", 0), "input": ["a", "bc"]}, unix=True).json
    assert [round(sum(x * x for x in v), 3) for v in answer["embeddings"]] == [1, 1]
    assert "energy" in answer


@pytest.mark.parametrize("fields", [{}, {"input": ""}, {"prompt": ""}], ids=["nothing", "input", "prompt"])
def test_nothing_to_embed_loads_the_model(daemon: Daemon, fields: Any) -> None:
    assert daemon.ask("POST", "/api/embed", {"model": "starter", **fields}).json["embeddings"] == []
    assert daemon.ask("POST", "/api/embeddings", {"model": "starter", **fields}).json == {"embedding": []}
    assert daemon.ask("POST", "/api/embed", {"model": "absent", **fields}).status == 404


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"images": ["aGVsbG8="], "prompt": "x"}, "text only"),
        ({"template": "{{ .Prompt }}", "prompt": "x"}, "template"),
        ({"prompt": "x", "format": "yaml"}, "format"),
        ({"prompt": "x", "keep_alive": "soon"}, "keep_alive"),
        ({"prompt": "x", "options": {"temperature": -1}}, "temperature"),
        ({"prompt": "x", "options": {"num_ctx": "long"}}, "num_ctx"),
        ({"prompt": "word " * 9000}, "8192"),
        ({"prompt": "x", "model": "absent"}, "absent"),
    ],
    ids=["image", "template", "format", "keep_alive", "temperature", "num_ctx", "too long", "unknown model"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_requests_are_refused_in_one_line(daemon: Daemon, fields: Any, named: str, stream: bool) -> None:
    answer = daemon.ask("POST", "/api/generate", {"model": "starter", "stream": stream, **fields})
    assert answer.status in (400, 404)
    assert list(answer.json) == ["error"]
    assert named in answer.json["error"]


def test_the_root_and_the_version_are_those_of_ollama(daemon: Daemon) -> None:
    assert daemon.ask("HEAD", "/").status == 200
    assert b"Ollama is running" in daemon.ask("GET", "/").content
    version = daemon.ask("GET", "/api/version").json["version"]
    assert tuple(int(part) for part in version.split(".")) >= (0, 13, 4)
