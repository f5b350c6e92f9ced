"""Siblings as people and clients meet them: imported, listed, named, asked through the daemon, removed, and refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.contract import Adapter
from localai import errors
from localai.adapter_memory import AdapterMemory
from localai.catalog import Catalog
from localai.foreign_stores import Stores
from localai.imports import import_file, remove
from localai.library import Library
from tests.daemon_fixture import Daemon, running, wait_for
from tests.gguf_files import llama_with
from tests.lora_files import factors, write_lora

STARTER_ID = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    write_lora(made / "pirate.gguf", factors(1))
    write_lora(made / "poet.gguf", factors(2), half=True)
    write_lora(made / "foreign.gguf", factors(3), general__architecture="qwen2")
    return made


@pytest.fixture
def library(tmp_path: Path, files: Path) -> Library:
    """With the adapter `pirate` imported over the starter, at half its strength."""
    made = Library(tmp_path, Catalog.load(tmp_path), Stores())
    import_file(made, files / "pirate.gguf", "pirate", base="starter", scale=0.5)
    return made


def test_an_imported_adapter_is_a_model_over_its_base(library: Library, files: Path) -> None:
    model = library.resolve("Pirate")
    assert model.base is not None
    assert (model.id, model.origin, model.base.id) == ("pirate", "imported", STARTER_ID)
    assert model.size_bytes == (files / "pirate.gguf").stat().st_size
    assert model.header == model.base.header
    assert [(Path(a.path).name, a.scale) for a in model.adapters] == [("pirate.gguf", 0.5)]
    assert library.resolve("starter").adapters == ()


@pytest.mark.parametrize(
    ("name", "expected", "scales"),
    [
        ("starter+pirate", f"{STARTER_ID}+pirate", [0.5]),
        ("starter+pirate@2", f"{STARTER_ID}+pirate@2", [1.0]),
        ("starter+{files}/poet.gguf", f"{STARTER_ID}+poet", [1.0]),
        ("starter+{files}/poet.gguf@-0.5", f"{STARTER_ID}+poet@-0.5", [-0.5]),
        ("pirate+{files}/poet.gguf@3", "pirate+poet@3", [0.5, 3.0]),
    ],
)
def test_bases_and_adapters_are_put_together(
    library: Library, files: Path, name: str, expected: str, scales: list[float]
) -> None:
    model = library.resolve(name.format(files=files))
    assert model.base is not None
    assert (model.id, model.base.id) == (expected, STARTER_ID)
    assert [adapter.scale for adapter in model.adapters] == scales


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("starter+nobody", errors.UnknownModel, "nobody"),
        ("nobody+pirate", errors.UnknownModel, "nobody"),
        ("starter+starter", errors.BadRequest, "is a model, not an adapter"),
        ("starter+pirate@much", errors.BadRequest, "no number"),
        ("starter+pirate@0", errors.BadRequest, "scale is 0.0"),
        ("starter+pirate@nan", errors.BadRequest, "scale is nan"),
        ("starter+pirate+pirate", errors.BadRequest, "named twice"),
        ("starter" + "+pirate" * 900, errors.BadRequest, "900 adapters"),
        ("starter+/nowhere/x.gguf", errors.NotFound, "no adapter"),
        ("starter+", errors.UnknownModel, ""),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_names_that_mean_nothing(library: Library, name: str, error: type[errors.LocalaiError], said: str) -> None:
    with pytest.raises(error) as caught:
        library.resolve(name)
    assert said in caught.value.message


def test_strangers_name_no_files(library: Library, files: Path) -> None:
    with pytest.raises(errors.UnknownModel):
        library.resolve(f"starter+{files / 'poet.gguf'}", files=False)


@pytest.mark.parametrize(
    ("file", "fields", "error", "said"),
    [
        ("foreign.gguf", {"base": "starter"}, errors.ModelBroken, "qwen2 models"),
        ("poet.gguf", {}, errors.ModelBroken, "a LoRA adapter, not a model"),
        ("poet.gguf", {"base": "pirate"}, errors.BadRequest, "is an adapter over"),
        ("poet.gguf", {"base": "nobody"}, errors.UnknownModel, "nobody"),
        ("poet.gguf", {"base": "starter", "scale": 0.0}, errors.BadRequest, "scale"),
        ("model.gguf", {"base": "starter"}, errors.ModelBroken, "no adapter but a model"),
        ("none.gguf", {"base": "starter"}, errors.ModelBroken, "is not a file"),
    ],
)
def test_imports_that_are_refused(
    library: Library, files: Path, file: str, fields: dict[str, Any], error: type[errors.LocalaiError], said: str
) -> None:
    (files / "model.gguf").write_bytes(llama_with())
    with pytest.raises(error) as caught:
        import_file(library, files / file, "refused", **fields)
    assert said in caught.value.message
    assert caught.value.hint
    assert "refused" not in {model.id for model in library.list()}


def test_a_base_is_kept_while_it_has_siblings(library: Library, files: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    small.write_bytes(llama_with())
    import_file(library, small, "small")
    folder = library.store.folder("odd")
    library.store.publish(_manifest(folder, files / "poet.gguf", base="small"))
    with pytest.raises(errors.Conflict, match="base of odd"):
        remove(library, "small")
    assert remove(library, "odd") > 0
    remove(library, "small")


def _manifest(folder: Path, file: Path, base: str) -> Any:
    from localai.model_store import Manifest, StoredFile

    folder.mkdir(parents=True)
    (folder / file.name).write_bytes(file.read_bytes())
    stored = (StoredFile(file.name, file.stat().st_size),)
    return Manifest(id=folder.name, origin="imported", files=stored, base=base)


def test_a_sibling_without_its_base_says_so(library: Library, files: Path) -> None:
    folder = library.store.folder("orphan")
    library.store.publish(_manifest(folder, files / "poet.gguf", base="gone"))
    with pytest.raises(errors.ModelBroken, match="its base gone is not here"):
        library.resolve("orphan")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('id = "starter"\nbase = "starter"\nfile = "x.gguf"', "has the name of a model"),
        ('id = "poet"\nfile = "x.gguf"', "adapter 1 (poet)"),
        ('id = "poet"\nbase = "starter"\nfile = 3', "key file"),
    ],
)
def test_wrong_adapters_in_models_toml(tmp_path: Path, entry: str, said: str) -> None:
    (tmp_path / "models.toml").write_text(f"[[adapters]]\n{entry}\n")
    with pytest.raises(errors.ConfigError) as caught:
        Catalog.load(tmp_path)
    assert said in caught.value.message


def test_models_toml_names_adapters(tmp_path: Path, files: Path) -> None:
    entry = f'[[adapters]]\nid = "poet"\nbase = "starter"\nfile = "{files / "poet.gguf"}"\nscale = 0.25\n'
    (tmp_path / "models.toml").write_text(entry)
    model = Library(tmp_path, Catalog.load(tmp_path), Stores()).resolve("poet")
    assert [(a.path, a.scale) for a in model.adapters] == [(str(files / "poet.gguf"), 0.25)]


def test_memory_follows_what_the_engine_keeps(files: Path) -> None:
    memory, size = AdapterMemory(), (files / "pirate.gguf").stat().st_size
    versions = [Adapter(str(files / "pirate.gguf"), 1.0, str(number)) for number in range(12)]
    assert memory.growth(versions[:2]) == 2 * size
    for version in versions:
        memory.use([version])
    assert memory.growth(versions[-8:]) == 0
    assert memory.total == 8 * size


# -- through the daemon


@pytest.fixture(scope="module")
def daemon(files: Path) -> Iterator[Daemon]:
    with running() as started:
        for name in ("pirate", "poet"):
            done = started.cli("models", "import", str(files / f"{name}.gguf"), "--base", "starter", "--json")
            assert done.returncode == 0, done.stderr
        yield started


def test_listings_show_siblings_with_their_base(daemon: Daemon) -> None:
    listed = json.loads(daemon.cli("models", "list", "--json").stdout)["models"]
    assert {m["id"]: m["base"] for m in listed}["pirate"] == STARTER_ID
    assert f"over {STARTER_ID}" in daemon.cli("models", "list").stdout
    shown = json.loads(daemon.cli("models", "show", "pirate", "--json").stdout)
    assert shown["local"]["adapters"] == [{"file": "pirate.gguf", "scale": 1.0}]
    served = {m["id"]: m["base"] for m in daemon.ask("GET", "/v1/models").json["data"]}
    assert (served["pirate"], served[STARTER_ID]) == (STARTER_ID, None)


def test_siblings_answer_from_one_engine(daemon: Daemon) -> None:
    names = ["starter", "pirate", "poet", "starter+pirate@0.5+poet"]
    alone = [daemon.chat("What is the sea?", model=name).json for name in names]
    assert len({answer["choices"][0]["message"]["content"] for answer in alone}) == len(names)
    assert [answer["model"] for answer in alone] == [STARTER_ID, "pirate", "poet", f"{STARTER_ID}+pirate@0.5+poet"]
    assert "1 adapter;" in alone[1]["reason"]
    (engine,) = daemon.engines()
    assert engine["model"] == STARTER_ID
    assert engine["charged_bytes"] > engine["weight_bytes"] + engine["kv_bytes"]
    wait_for(lambda: [row["model"] for row in daemon.rows("queries")][-4:] == [answer["model"] for answer in alone])
    assert b"localai_adapter_switches_total 3" in daemon.ask("GET", "/metrics").content


async def test_siblings_at_once_answer_as_each_alone(daemon: Daemon) -> None:
    names = ["starter", "pirate", "poet"] * 2

    def said(name: str) -> str:
        answer = daemon.chat("Name a fish.", model=name, max_tokens=3)
        assert answer.status == 200, answer.content
        return str(answer.json["choices"][0]["message"]["content"])

    alone = [said(name) for name in names]
    assert await asyncio.gather(*(asyncio.to_thread(said, name) for name in names)) == alone


@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("starter+nobody", 404, "nobody"),
        ("starter+pirate@x", 400, "no number"),
        ("starter+/etc/passwd.gguf", 404, "no model named"),
    ],
)
def test_clients_are_told_what_is_wrong(daemon: Daemon, model: str, status: int, said: str) -> None:
    answer = daemon.chat("hello", model=model)
    assert (answer.status, said in answer.error["message"]) == (status, True), answer.content


def test_the_command_line_takes_files_and_refuses_foreign_ones(daemon: Daemon, files: Path) -> None:
    fits, foreign = (f"starter+{files / name}.gguf" for name in ("poet", "foreign"))
    done = daemon.cli("ask", "hello", "-m", fits, "--max-tokens", "3", "--json")
    assert json.loads(done.stdout)["model"] == f"{STARTER_ID}+poet"
    refused = daemon.cli("ask", "hello", "-m", foreign, "--max-tokens", "3")
    assert refused.returncode == 1
    assert "foreign.gguf does not fit" in refused.stderr


def test_a_sibling_is_removed_alone(daemon: Daemon, files: Path) -> None:
    done = daemon.cli("models", "import", str(files / "poet.gguf"), "--base", "starter", "--name", "brief")
    assert done.returncode == 0
    assert daemon.chat("hello", model="brief").status == 200
    assert daemon.cli("models", "rm", "brief").returncode == 0
    assert daemon.chat("hello", model="brief").status == 404
    assert daemon.chat("hello", model="pirate").status == 200
