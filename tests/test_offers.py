"""Which backend can run which model here, folders of MLX and ONNX among them, and what is said where none can."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from backends.gguf_tensors import BLOCKS
from localai.budget import charge
from localai.catalog import Catalog
from localai.errors import BadRequest, ModelBroken, OutOfResources
from localai.foreign_stores import Stores
from localai.library import Library
from localai.local_model import LocalModel
from localai.model_folders import folder_shape, folder_sizes
from localai.offers import BACKENDS, TENSOR_TYPES, forget_packages, offer, offers, usable
from localai.readings import Shape
from tests.gguf_files import llama_with

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def folder(at: Path, *files: str, config: dict[str, Any] | None = CONFIG) -> Path:
    at.mkdir(parents=True)
    if config is not None:
        (at / "config.json").write_text(json.dumps(config))
    for name in files:
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_bytes(b"w" * 1000)
    return at


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", Catalog.load(tmp_path / "home"), Stores())


@pytest.fixture
def starter(library: Library) -> LocalModel:
    return library.resolve("starter")


def test_the_table_and_the_registry_agree() -> None:
    assert {known.name for known in BACKENDS} == set(registry.NAMES)
    assert set(BLOCKS) == TENSOR_TYPES


def test_every_backend_here_runs_the_starter(starter: LocalModel) -> None:
    assert usable(starter) == tuple(known.name for known in BACKENDS)


@pytest.fixture
def looking_anew() -> Iterator[None]:
    """What was found out about installed packages before is not asked for in the test, nor its finds after it."""
    forget_packages()
    yield
    forget_packages()


@pytest.mark.usefixtures("looking_anew")
def test_a_missing_package_is_named_with_the_command(starter: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as find_spec sees a package that is not there
    found = offer(starter, "onnx")
    assert "needs the package onnxruntime" in found.problem
    assert found.hint.startswith("pip install")
    assert "onnx" not in usable(starter)


def test_an_architecture_that_a_backend_lacks(tmp_path: Path, library: Library) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(llama_with().replace(b"llama", b"mamba"))
    found = {each.backend: each for each in offers(library.file(path))}
    assert not found["llama.cpp"].problem
    assert "architecture is 'mamba'" in found["onnx"].problem
    assert "llama.cpp" in found["onnx"].hint


def test_an_unknown_backend_lists_the_known(starter: LocalModel) -> None:
    with pytest.raises(BadRequest, match="no backend named 'vllm'") as caught:
        offer(starter, "vllm")
    assert "llama.cpp, onnx" in caught.value.hint


# -- folders


@pytest.mark.parametrize(
    ("files", "config", "layout", "backend"),
    [
        pytest.param(("model.safetensors",), CONFIG, "mlx", "mlx", id="MLX"),
        pytest.param(("model.onnx", "model.onnx_data"), CONFIG, "onnx", "onnx", id="ONNX"),
        pytest.param(("onnx/model_q4.onnx",), CONFIG, "onnx", "onnx", id="ONNX below"),
    ],
)
def test_folders_are_models(
    tmp_path: Path, library: Library, files: tuple[str, ...], config: dict[str, Any], layout: str, backend: str
) -> None:
    model = library.resolve(str(folder(tmp_path / "mine", *files, config=config)))
    assert (model.format, model.problem, model.id) == (layout, None, "file:mine")
    assert model.header is not None
    assert (model.header.architecture, model.header.n_ctx_train) == ("llama", 512)
    assert model.size_bytes > 1000 * len(files)
    assert "opens no" in offer(model, "llama.cpp").problem
    if backend in registry.NAMES:
        assert "opens no" not in offer(model, backend).problem
        assert backend in offer(model, "llama.cpp").hint


def test_an_export_with_its_own_config_only(tmp_path: Path, library: Library) -> None:
    place = folder(tmp_path / "export", "model.onnx", config=None)
    (place / "genai_config.json").write_text(
        json.dumps({"model": {"type": "qwen2", "context_length": 4096, "decoder": {"hidden_size": 64}}})
    )
    header = library.resolve(str(place)).header
    assert header is not None
    assert (header.architecture, header.n_ctx_train) == ("qwen2", 4096)


def test_folders_in_the_hub_cache_are_found_by_their_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--mlx-community--Tiny-4bit" / "snapshots" / "abc"
    folder(snapshot, "model.safetensors", config=CONFIG | {"quantization": {"bits": 4, "group_size": 32}})
    library = Library(tmp_path / "home", Catalog.load(tmp_path / "home"), Stores(hub=(tmp_path / "hub",)))
    model = library.resolve("hf:mlx-community/Tiny-4bit")
    assert (model.id, model.format, model.path) == ("hub:mlx-community/Tiny-4bit", "mlx", snapshot)
    assert model.header is not None
    assert model.header.quant == "4-bit"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param("{", "config.json in broken cannot be read", id="not JSON"),
        pytest.param("[]", "holds no object", id="no object"),
    ],
)
def test_a_folder_with_a_broken_description(tmp_path: Path, library: Library, config: str, said: str) -> None:
    place = folder(tmp_path / "broken", "model.safetensors")
    (place / "config.json").write_text(config)
    with pytest.raises(ModelBroken, match=said):
        library.resolve(str(place))


def test_a_folder_without_a_model(tmp_path: Path, library: Library) -> None:
    with pytest.raises(ModelBroken, match="'empty' holds no model"):
        library.resolve(str(folder(tmp_path / "empty")))


def test_an_architecture_that_mlx_lacks_is_told_with_the_alternative(tmp_path: Path, library: Library) -> None:
    place = folder(tmp_path / "other", "model.safetensors", config=CONFIG | {"model_type": "mamba"})
    model = library.resolve(str(place))
    if "mlx" in registry.NAMES:
        assert "architecture is 'mamba'" in offer(model, "mlx").problem
        assert "llama.cpp serves a GGUF" in offer(model, "mlx").hint
    assert usable(model) == ()


# -- memory by backend


def test_memory_of_a_folder_and_of_backends(tmp_path: Path) -> None:
    place = folder(tmp_path / "sized", "model.safetensors")
    sizes = folder_sizes(place, 50_000)
    assert (sizes.kv_values, sizes.width, sizes.trained) == (2 * 2 * 32, 64, 512)
    plain, copied = charge(sizes, 100, "f16"), charge(sizes, 100, "f16", "onnx")
    assert plain.kv == 100 * sizes.kv_values * 2
    assert copied.weights == 2 * plain.weights


def test_the_shape_of_a_folder_agrees_with_its_sizes(tmp_path: Path) -> None:
    shape = folder_shape(folder(tmp_path / "shaped", "model.safetensors"), 50_000, "4-bit")
    assert isinstance(shape, Shape)
    assert shape.kv_values == 128
    assert shape.head_flops == 2 * 64 * 100
    assert shape.weight_bytes == pytest.approx(50_000, abs=2)


def test_a_budget_that_nothing_fits_in(starter: LocalModel, tmp_path: Path) -> None:
    from localai.choice import Choice
    from localai.config import Config
    from localai.device import inspect
    from localai.orders import Orders

    orders = Orders(Config(home=tmp_path), inspect(tmp_path))
    for backend in usable(starter):
        with pytest.raises(OutOfResources, match="are free"):
            orders.plan(replace(Choice(starter, backend, 0, "")), 50 * 2**20)
