"""The MLX engine: the same answers as llama.cpp from the same files, the calls on sequences, folders, bad files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.contract import Adapter, Load
from backends.engine import CacheFull, Engine, Floats, Slice, Want
from backends.errors import MissingExtra, ModelFileError, UnsupportedModel
from backends.registry import open_engine
from tests.engine_runs import STARTER, order
from tests.tiny_models import N_VOCAB, tiny_gguf

pytest.importorskip("mlx.core", reason="MLX runs on Linux and on Apple silicon")

from tests.mlx_folders import mlx_folder

TEXT = [int(token) for token in np.random.default_rng(5).integers(0, N_VOCAB - 4, 150)]
FAMILIES = ["llama", "qwen2", "qwen3"]


def opened(path: Path, backend: str = "mlx", **fields: Any) -> Engine:
    return open_engine(order(path, backend, **{"n_ctx": 256, "n_seq": 4} | fields), lambda *_: None)


def run(engine: Engine, seq: int, tokens: list[int], pos: int = 0, want: Want = "last") -> Floats:
    result = engine.step([Slice(seq, tokens, pos, want)])[0]
    assert result is not None
    return result.copy()


def once(path: Path, tokens: list[int], backend: str = "mlx", **fields: Any) -> Floats:
    engine = opened(path, backend, **fields)
    found = run(engine, 0, tokens, want="all")
    engine.close()
    return found


def distance(one: Floats, other: Floats) -> float:
    """The largest difference, in standard deviations of the logits."""
    return float(np.abs(one - other).max() / other.std())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = opened(tiny_gguf(tmp_path_factory.mktemp("mlx") / "llama.gguf"))
    yield engine
    engine.close()


@pytest.fixture
def engine(tiny: Engine) -> Iterator[Engine]:
    yield tiny
    for seq in range(4):
        tiny.drop(seq)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        pytest.param("F32", "", 0.02, id="F32"),
        pytest.param("F16", "", 0.02, id="F16"),
        pytest.param("Q4_0", "", 0.15, id="Q4_0"),
        pytest.param("Q4_1", "", 0.15, id="Q4_1"),
        pytest.param("Q8_0", "", 0.15, id="Q8_0"),
        pytest.param("Q4_1", "host", 0.15, id="Q4_1 on the host"),
        pytest.param("Q4_1", "half", 0.2, id="Q4_1 in 16 bits"),
    ],
)
def test_logits_are_those_of_llama_cpp(tmp_path: Path, family: str, kind: str, mode: str, tolerance: float) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", family, kind)
    expected = once(path, TEXT[:40], "llama.cpp")
    assert distance(once(path, TEXT[:40], mode=mode), expected) < tolerance


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_packed_and_plain_weights_are_the_same_model(tmp_path: Path, kind: str) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kind=kind)
    assert distance(once(path, TEXT[:40]), once(path, TEXT[:40], mode="host")) < 1e-3


def test_positions_can_be_stretched(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kind="F32", rope__scaling__type="linear", rope__scaling__factor=4.0)
    assert distance(once(path, TEXT[:40]), once(path, TEXT[:40], "llama.cpp")) < 0.02


def test_the_starter_says_what_llama_cpp_says() -> None:
    with_fields: dict[str, Any] = {"n_seq": 1, "threads": 2}
    reference = opened(STARTER, "llama.cpp", **with_fields)
    tokens = reference.tokenizer.encode("The capital of France is Paris, and the", special=False, add_bos=False)
    expected = run(reference, 0, tokens, want="all")
    reference.close()
    for mode in ("", "host"):
        found = once(STARTER, tokens, mode=mode, **with_fields)
        assert distance(found, expected) < 0.3
        assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean() > 0.85


# -- sequences


def test_a_prompt_in_pieces_ends_like_a_whole_one(engine: Engine) -> None:
    expected = run(engine, 0, TEXT[:100])
    for pos in range(0, 100, 7):
        last = run(engine, 1, TEXT[pos : min(pos + 7, 100)], pos)
    assert distance(last, expected) < 1e-4
    assert run(engine, 2, TEXT[:20], want="all").shape == (20, N_VOCAB)


def test_a_ragged_batch_equals_each_alone(engine: Engine) -> None:
    lengths = [60, 1, 33, 7]
    alone = []
    for seq, length in enumerate(lengths):
        run(engine, seq, TEXT[:length])
        alone.append(run(engine, seq, [TEXT[100 + seq]], length))
        engine.drop(seq)
    for seq, length in enumerate(lengths):
        run(engine, seq, TEXT[:length])
    # One decodes, one goes on with its prompt, and they do not stand in the order of their numbers.
    batch = [Slice(seq, [TEXT[100 + seq]], lengths[seq], "last") for seq in (2, 0, 3, 1)]
    for part, result in zip(batch, engine.step(batch), strict=True):
        assert result is not None
        assert distance(result, alone[part.seq]) < 1e-4


def test_prefill_and_decode_share_a_step(engine: Engine) -> None:
    expected = [run(engine, 0, TEXT[:50], want="all")[-1:], run(engine, 1, TEXT[50:90], want="all")]
    engine.drop(0)
    engine.drop(1)
    run(engine, 0, TEXT[:49], want="last")
    first, second, nothing = engine.step(
        [Slice(0, [TEXT[49]], 49, "last"), Slice(1, TEXT[50:90], 0, "all"), Slice(2, TEXT[:9], 0, "none")]
    )
    assert nothing is None
    assert first is not None
    assert second is not None
    assert distance(first, expected[0]) < 1e-4
    assert distance(second, expected[1]) < 1e-4


def test_embeddings_are_sums_of_states(engine: Engine) -> None:
    whole = run(engine, 0, TEXT[:30], want="embed")
    parts = run(engine, 1, TEXT[:11], want="embed") + run(engine, 1, TEXT[11:30], 11, want="embed")
    assert whole.shape == (1, engine.info().n_embd)
    assert distance(whole, parts) < 1e-4


@pytest.mark.parametrize("length", [9, 100], ids=["within a step", "near the end"])
def test_blocks_go_on_like_the_original(engine: Engine, length: int) -> None:
    run(engine, 0, TEXT[:length])
    blocks = [(a, b, engine.export_block(0, a, b)) for a, b in ((0, 5), (5, length))]
    expected = run(engine, 0, [5], length)
    assert all(engine.import_block(3, *block) for block in blocks)
    assert np.array_equal(run(engine, 3, [5], length), expected)


def test_a_foreign_block_is_not_taken(engine: Engine) -> None:
    run(engine, 0, TEXT[:9])
    block = engine.export_block(0, 0, 9)
    assert not engine.import_block(1, 0, 9, block[:-4])
    assert not engine.import_block(1, 9, 18, block)
    assert run(engine, 1, TEXT[:5]).shape == (1, N_VOCAB)


def test_a_fork_goes_its_own_way(engine: Engine) -> None:
    run(engine, 0, TEXT[:40])
    expected = [run(engine, 0, [token], 40) for token in (7, 8) if engine.trim(0, 40)]
    engine.trim(0, 40)
    engine.fork(0, 1)
    found = engine.step([Slice(0, [7], 40, "last"), Slice(1, [8], 40, "last")])
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert distance(one, other) < 1e-4
    engine.drop(0)
    assert engine.trim(1, 40)
    assert distance(run(engine, 1, [8], 40), expected[1]) < 1e-4


def test_a_cut_sequence_forgets(engine: Engine) -> None:
    expected = run(engine, 0, [*TEXT[:10], 3, 4, 5])
    run(engine, 1, TEXT[:120])
    assert engine.trim(1, 10)
    assert distance(run(engine, 1, [3, 4, 5], 10), expected) < 1e-4


def test_full_cells_refuse_and_change_nothing(engine: Engine) -> None:
    run(engine, 0, TEXT[:100])
    run(engine, 1, TEXT[:150])
    with pytest.raises(CacheFull):
        engine.step([Slice(0, [1] * 4, 100, "last"), Slice(1, [1] * 3, 150, "last")])
    found = run(engine, 0, [1] * 6, 100)
    engine.drop(1)
    run(engine, 2, [*TEXT[:100], 1, 1, 1, 1, 1])
    assert distance(found, run(engine, 2, [1], 105)) < 1e-4


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([Slice(0, [], 0, "last")], id="nothing"),
        pytest.param([Slice(4, [1], 0, "last")], id="no such sequence"),
        pytest.param([Slice(0, [1], 3, "last")], id="a gap"),
        pytest.param([Slice(0, [1], 0, "last"), Slice(0, [2], 1, "last")], id="twice"),
        pytest.param([Slice(0, [1] * 100, 0, "all")], id="too many rows"),
    ],
)
def test_misuse_is_refused(engine: Engine, batch: list[Slice]) -> None:
    with pytest.raises(ValueError):
        engine.step(batch)


# -- folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_the_model_of_its_file(tmp_path: Path, family: str) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", family, "F32")
    folder = mlx_folder(path, tmp_path / "folder")
    assert distance(once(folder, TEXT[:40]), once(path, TEXT[:40], "llama.cpp")) < 0.02


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("mode", ["", "host"])
def test_a_quantised_folder_runs_like_mlx_lm_runs_it(tmp_path: Path, bits: int, mode: str) -> None:
    utils = pytest.importorskip("mlx_lm.utils", reason="mlx-lm is the reference here, not a part of the engine")
    import mlx.core as mx

    own = {"model.layers.1.mlp.down_proj": 8}
    folder = mlx_folder(tiny_gguf(tmp_path / "tiny.gguf", "qwen3", "F32"), tmp_path / "folder", bits=bits, own=own)
    model, _ = utils.load_model(folder)
    expected = np.array(model(mx.array([TEXT[:40]]))[0].astype(mx.float32))
    assert distance(once(folder, TEXT[:40], mode=mode), expected) < 1e-3


def break_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        pytest.param("tokenizer.json", None, ModelFileError, id="no tokenizer"),
        pytest.param("config.json", None, ModelFileError, id="no configuration"),
        pytest.param("config.json", "[]", ModelFileError, id="configuration of another kind"),
        pytest.param("model.safetensors", None, ModelFileError, id="no weights"),
        pytest.param("model.safetensors", "broken", ModelFileError, id="broken weights"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, name: str, content: str | None, error: type[ModelFileError]) -> None:
    folder = mlx_folder(tiny_gguf(tmp_path / "tiny.gguf", kind="F32"), tmp_path / "some-model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(error) as caught:
        opened(folder)
    assert "some-model" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"model_type": "mamba"}, "mamba", id="another architecture"),
        pytest.param({"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, "mxfp4", id="another packing"),
    ],
)
def test_folders_beyond_this_backend_are_refused(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    source = tiny_gguf(tmp_path / "tiny.gguf", kind="F32")
    folder = mlx_folder(source, tmp_path / "folder", bits=4)
    break_config(folder, **changes)
    with pytest.raises(UnsupportedModel, match=word) as caught:
        opened(folder)
    assert caught.value.hint


def test_a_folder_that_contradicts_its_weights_is_refused(tmp_path: Path) -> None:
    folder = mlx_folder(tiny_gguf(tmp_path / "tiny.gguf", kind="F32"), tmp_path / "folder")
    break_config(folder, intermediate_size=100)
    with pytest.raises(ModelFileError, match="shape"):
        opened(folder)


def test_an_architecture_that_llama_cpp_serves_is_refused_with_that_hint(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", expert_count=4)
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf") as caught:
        opened(path)
    assert "llama.cpp" in caught.value.hint


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="quick") as caught:
        opened(tiny_gguf(tmp_path / "tiny.gguf"), mode="quick")
    assert "host" in caught.value.hint


def test_adapters_are_refused(engine: Engine) -> None:
    with pytest.raises(UnsupportedModel):
        engine.adapt((Adapter("x.gguf", 1.0),))
    engine.adapt(())


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name == "backends.mlx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(MissingExtra) as caught:
        open_engine(Load(backend="mlx", path=str(tmp_path), n_ctx=64), lambda *_: None)
    assert "pip install 'localai-daemon[mlx]'" in caught.value.hint
