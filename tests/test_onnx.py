"""The ONNX engine: the same answers as llama.cpp from the same files, the calls on sequences, exports, bad files."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from backends.contract import Load
from backends.engine import CacheFull, Engine, Floats, Slice, StepInterrupted, Want
from backends.errors import BackendError, ModelFileError, UnsupportedModel
from backends.onnx import OnnxEngine
from backends.registry import open_engine
from tests.engine_runs import STARTER, ask, engine, order
from tests.tiny_models import N_VOCAB, tiny_export, tiny_gguf

TEXT = [int(token) for token in np.random.default_rng(5).integers(0, N_VOCAB - 4, 150)]


def opened(path: Path, backend: str = "onnx", **fields: Any) -> Engine:
    load = order(path, backend, **{"n_ctx": 256, "n_seq": 4} | fields)
    return open_engine(load, lambda *_: None)


def run(engine: Engine, seq: int, tokens: list[int], pos: int = 0, want: Want = "last") -> Floats:
    result = engine.step([Slice(seq, tokens, pos, want)])[0]
    assert result is not None
    return result.copy()


def near(one: Floats, other: Floats, tolerance: float = 1e-3) -> bool:
    """Equal but for rounding, as seen from the spread of the logits."""
    return float(np.abs(one - other).max()) <= tolerance * float(other.std())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[Engine]:
    found = opened(tiny_gguf(folder / "llama.gguf"), cache=str(folder))
    yield found
    found.close()


@pytest.fixture(scope="module")
def export(folder: Path) -> Iterator[Engine]:
    found = opened(tiny_export(folder / "export"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def eight(folder: Path) -> Iterator[Engine]:
    found = opened(tiny_gguf(folder / "llama.gguf"), mode="kv8", cache=str(folder))
    yield found
    found.close()


@pytest.fixture(params=["tiny", "export", "eight"])
def either(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Engines with a shared cache, with one that the graph hands back, and with a shared one in 8 bits."""
    found: Engine = request.getfixturevalue(request.param)
    yield found
    for seq in range(4):
        found.drop(seq)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("F32", "", 0.02),
        ("F16", "", 0.02),
        ("Q4_0", "float", 0.15),
        ("Q4_0", "", 0.15),
        ("Q4_1", "exact", 0.15),
        ("Q4_1", "", 0.15),
        ("Q4_1", "prefill8", 0.2),
        ("Q4_1", "kv8", 0.15),
        ("F32", "kv8", 0.02),
        ("Q8_0", "", 0.15),
    ],
)
def test_logits_are_those_of_llama_cpp(tmp_path: Path, family: str, kind: str, mode: str, tolerance: float) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", family, kind)
    expected = run(reference := opened(path, "llama.cpp"), 0, TEXT[:40], want="all")
    reference.close()
    found = run(ours := opened(path, mode=mode), 0, TEXT[:40], want="all")
    ours.close()
    assert near(found, expected, tolerance), np.abs(found - expected).max() / expected.std()


def test_positions_can_be_stretched(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", kind="F32", rope__scaling__type="linear", rope__scaling__factor=4.0)
    expected = run(reference := opened(path, "llama.cpp"), 0, TEXT[:40], want="all")
    found = run(ours := opened(path), 0, TEXT[:40], want="all")
    reference.close()
    ours.close()
    assert near(found, expected, 0.02)


def test_a_prompt_in_pieces_ends_like_a_whole_one(either: Engine) -> None:
    size = either.info().n_batch
    whole = TEXT[: min(size, 100)]
    expected = run(either, 0, whole)
    for pos in range(0, len(whole), 7):
        last = run(either, 1, whole[pos : pos + 7], pos)
    assert near(last, expected, 0.1)
    rows = run(either, 2, whole[:20], want="all")
    assert rows.shape == (20, N_VOCAB)
    assert near(rows[-1:], run(either, 3, whole[:20]), 0.1)


def test_ragged_sequences_share_a_step(either: Engine) -> None:
    prompts = {0: TEXT[:30], 2: TEXT[5:8], 3: TEXT[40:61]}
    alone = {}
    for seq, tokens in prompts.items():
        run(either, seq, tokens)
        alone[seq] = run(either, seq, [9], len(tokens))
        either.trim(seq, len(tokens))
    batch = [Slice(seq, [9], len(prompts[seq]), "last") for seq in (3, 0, 2)]
    together = either.step([*batch, Slice(1, TEXT[:11], 0, "none")])
    assert together[3] is None
    for part, row in zip(batch, together, strict=False):
        assert row is not None
        assert near(row, alone[part.seq], 0.05)


def test_trim_fork_and_blocks(either: Engine) -> None:
    run(either, 0, TEXT[:30])
    expected = run(either, 0, [9], 30)
    either.fork(0, 1)
    assert either.trim(1, 30)
    assert near(run(either, 1, [9], 30), expected)
    either.trim(0, 30)
    blocks = {(a, b): either.export_block(0, a, b) for a, b in ((0, 20), (20, 30))}
    either.drop(0)
    assert all(either.import_block(2, *span, block) for span, block in blocks.items())
    assert near(run(either, 2, [9], 30), expected)
    assert not either.import_block(3, 0, 20, blocks[0, 20][:-1])
    assert not either.import_block(3, 20, 30, blocks[20, 30])
    assert run(either, 3, TEXT[:3]).shape == (1, N_VOCAB)


def test_cells_run_out_before_anything_changes(either: Engine) -> None:
    for pos in range(0, 192, 64):
        run(either, 0, TEXT[:64], pos)
    run(either, 1, TEXT[:63])
    with pytest.raises(CacheFull):
        either.step([Slice(0, [1], 192, "last"), Slice(1, [1], 63, "last")])
    assert run(either, 0, [1], 192).shape == (1, N_VOCAB)


@pytest.mark.parametrize(
    "batch",
    [
        [Slice(9, [1], 0, "last")],
        [Slice(0, [1], 5, "last")],
        [Slice(0, [], 0, "last")],
        [Slice(0, [1], 0, "last"), Slice(0, [2], 0, "last")],
        [Slice(0, [1] * 65, 0, "all")],
    ],
    ids=["sequence", "position", "no token", "twice", "rows"],
)
def test_wrong_places_are_refused(tiny: Engine, batch: list[Slice]) -> None:
    with pytest.raises(ValueError):
        tiny.step(batch)


def test_embeddings_are_the_sum_of_states(tiny: Engine) -> None:
    whole = run(tiny, 0, TEXT[:20], want="embed")
    tiny.drop(0)
    parts = run(tiny, 0, TEXT[:12], want="embed") + run(tiny, 0, TEXT[12:20], 12, want="embed")
    tiny.drop(0)
    assert whole.shape == (1, 64)
    assert near(parts, whole, 0.1)


def test_threads_can_change(tiny: Engine) -> None:
    expected = run(tiny, 0, TEXT[:20])
    tiny.set_threads(2)
    tiny.drop(0)
    assert near(run(tiny, 0, TEXT[:20]), expected)
    tiny.drop(0)


async def test_the_capital_of_france(folder: Path) -> None:
    load = order(STARTER, "onnx", threads=2, cache=str(folder))
    async with engine(load, folder) as handle:
        text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        prompt = await handle.tokenize(text, special=True, add_bos=False)
        answers = await asyncio.gather(*(ask(handle, [*prompt], max_tokens=20) for _ in range(4)))
        longer = await ask(handle, [*prompt, *answers[0].ids(), *prompt], max_tokens=4)
    assert all("Paris" in answer.text and answer.end.reason == "stop" for answer in answers)
    assert longer.end.usage.cached_tokens >= len(prompt)


def test_a_long_step_can_be_given_up(folder: Path) -> None:
    found = OnnxEngine(order(STARTER, "onnx", threads=1, cache=str(folder), n_ctx=1024), lambda *_: None)
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 49152, 512)]
    with pytest.raises(StepInterrupted):
        found.step([Slice(0, prompt, 0, "last")], lambda: True)
    found.step([Slice(0, prompt[:4], 0, "last")], lambda: False)
    assert found.info().kv_bytes == 1024 * 2 * 30 * 3 * 64 * 4
    found.close()


# -- the cache of converted graphs


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no checksums"])
def test_a_damaged_graph_is_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    expected = run(first := opened(path, cache=str(tmp_path / "cache")), 0, TEXT[:20])
    first.close()
    (built,) = (tmp_path / "cache").iterdir()
    data = built / "model.onnx.data"
    if damage == "no checksums":
        (built / "checksums.json").unlink()
    else:
        raw = bytearray(data.read_bytes())
        raw[len(raw) // 2] ^= 255
        data.write_bytes(raw[:-100] if damage == "truncated" else raw)
    again = run(second := opened(path, cache=str(tmp_path / "cache")), 0, TEXT[:20])
    second.close()
    assert near(again, expected)
    assert "built again" in caplog.text
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [built.name]


def test_nothing_is_left_without_a_cache(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    code = f"from tests.test_onnx import *; e = opened(Path({str(path)!r})); run(e, 0, TEXT[:4]); e.close()"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | {"TMPDIR": str(temporary)}, check=True)
    assert [each.name for each in temporary.iterdir() if each.name.startswith("localai")] == []


# -- hub exports


def test_an_export_says_what_it_is(export: Engine, folder: Path) -> None:
    info = export.info()
    assert (info.architecture, info.n_ctx_train, info.n_vocab, info.n_embd) == ("llama", 256, N_VOCAB, 64)
    assert "embed" not in info.capabilities
    assert export.tokenizer.eog == {257}
    assert export.tokenizer.encode("ab<|im_end|>", special=True, add_bos=False) == [258, 257]


def test_an_export_with_a_genai_config(folder: Path, export: Engine) -> None:
    found = opened(tiny_export(folder / "genai", genai=True))
    assert found.info().n_ctx_train == 256
    assert near(run(found, 0, TEXT[:20]), run(export, 0, TEXT[:20]))
    export.drop(0)
    found.close()


def test_an_export_with_fused_attention(folder: Path) -> None:
    """Graphs that write their cache in place, told by a mask: made from a converted one, which is told by lengths."""
    expected = run(
        ours := opened(tiny_gguf(folder / "fused.gguf", kind="F32"), cache=str(folder / "fused")), 0, TEXT[:9]
    )
    ours.close()
    target = folder / "fused-export"
    tiny_export(target)
    (built,) = (folder / "fused").iterdir()
    _masked(built / "model.onnx", target / "model.onnx")
    shutil.copy(built / "model.onnx.data", target / "model.onnx.data")
    found = opened(target)
    assert near(run(found, 0, TEXT[:9]), expected)
    rows = found.step([Slice(0, [3], 9, "last"), Slice(2, TEXT[:4], 0, "last")])
    batch = [Slice(2, [7], 4, "last"), Slice(0, [8], 10, "last")]
    assert all(row is not None and np.isfinite(row).all() for row in (*rows, *found.step(batch)))
    found.close()


def _masked(source: Path, target: Path) -> None:
    """Replace the inputs that only converted graphs have by what hub exports compute from a mask."""
    model = onnx.load(str(source), load_external_data=False)
    graph = model.graph
    angles = np.outer(np.arange(512), 10_000.0 ** (-np.arange(0, 16, 2) / 16)).astype(np.float32)
    for name, value in (("cos", np.cos(angles)), ("sin", np.sin(angles)), ("rows", np.arange(0))):
        if name != "rows":
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    constants = {"one": np.array([1], np.int64), "axis": np.array([1], np.int64)}
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    make = onnx.helper.make_node
    new = [
        make("ReduceSum", ["attention_mask", "axis"], ["held"], keepdims=0),
        make("Sub", ["held", "one"], ["held1"]),
        make("Cast", ["held1"], ["seqlens_k"], to=onnx.TensorProto.INT32),
        make("Shape", ["attention_mask"], ["width"], start=1, end=2),
        make("Cast", ["width"], ["total"], to=onnx.TensorProto.INT32),
        make("Shape", ["input_ids"], ["places"]),
        make("Concat", ["places", "vocab"], ["logits_shape"], axis=0),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([N_VOCAB], np.int64), "vocab"))
    nodes = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] == "rows":
            node = make("Identity", [node.input[0]], list(node.output))
        for index, output in enumerate(node.output):
            if output == "logits":
                node.output[index] = "flat_logits"
        nodes.append(node)
    nodes.append(make("Reshape", ["flat_logits", "logits_shape"], ["logits"]))
    del graph.node[:]
    graph.node.extend([*new, *nodes])
    kept = [value for value in graph.input if value.name not in ("seqlens_k", "total", "rows", "cos", "sin")]
    kept.append(onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["B", "M"]))
    del graph.input[:]
    graph.input.extend(kept)
    outputs = [value for value in graph.output if value.name not in ("logits", "states")]
    del graph.output[:]
    shape: list[str | int | None] = ["B", "S", N_VOCAB]
    graph.output.extend([onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape), *outputs])
    onnx.save(model, str(target))


# -- bad files


def spoil(folder: Path, fault: str) -> Path:
    if fault == "foreign inputs":
        return tiny_export(folder / "e", foreign="encoder_states")
    path = tiny_export(folder / "e")
    data = path / "model.onnx.data"
    if fault == "short data":
        data.write_bytes(data.read_bytes()[:-4096])
    elif fault == "no data":
        data.unlink()
    elif fault == "no graph":
        (path / "model.onnx").unlink()
    elif fault == "noise":
        (path / "model.onnx").write_bytes(b"\xff\x00noise" * 50)
    elif fault == "no tokenizer":
        (path / "tokenizer.json").unlink()
    return path


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("foreign inputs", UnsupportedModel, "encoder_states"),
        ("short data", ModelFileError, r"model\.onnx\.data is cut short"),
        ("no data", ModelFileError, r"model\.onnx\.data.*missing"),
        ("no graph", ModelFileError, r"e has no model\.onnx"),
        ("noise", ModelFileError, "no readable ONNX graph"),
        ("no tokenizer", ModelFileError, r"e has no tokenizer\.json"),
    ],
)
def test_bad_exports(tmp_path: Path, fault: str, kind: type[BackendError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        opened(spoil(tmp_path, fault))
    assert caught.value.hint
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"kind": "Q5_0"}, "stored as Q5_0"), ({"expert_count": 4}, "experts")],
    ids=["type", "experts"],
)
def test_models_that_llama_cpp_serves_instead(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"tiny\.gguf.*{says}") as caught:
        opened(tiny_gguf(tmp_path / "tiny.gguf", **fields))
    assert "llama.cpp" in caught.value.hint


def test_unknown_modes_are_refused(tmp_path: Path) -> None:
    load = Load(backend="onnx", path=str(tiny_gguf(tmp_path / "tiny.gguf")), n_ctx=64, mode="quick")
    with pytest.raises(UnsupportedModel, match="'quick'") as caught:
        open_engine(load, lambda *_: None)
    assert "'prefill8'" in caught.value.hint
