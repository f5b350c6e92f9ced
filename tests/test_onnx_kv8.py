"""KV caches in 8 bits: close to float32 ones, the same whichever way they were filled, and made anew when damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.engine import Engine, Floats, Slice
from backends.onnx import SHORT
from backends.registry import open_engine
from tests.engine_runs import STARTER, order

TEXT = "The tide comes in twice a day, and the boats in the harbour rise with it. Nobody here needs a clock. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kv8")


def opened(folder: Path, mode: str) -> Engine:
    load = order(STARTER, "onnx", n_ctx=1024, n_seq=4, mode=mode, cache=str(folder))
    return open_engine(load, lambda *_: None)


@pytest.fixture(scope="module")
def eight(folder: Path) -> Iterator[Engine]:
    engine = opened(folder, "kv8")
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def emptied(eight: Engine) -> Iterator[None]:
    yield
    for seq in range(4):
        eight.drop(seq)


@pytest.fixture(scope="module")
def tokens(eight: Engine) -> list[int]:
    return eight.tokenizer.encode(TEXT * 12, special=False, add_bos=False)[:240]


def fed(engine: Engine, seq: int, tokens: list[int], size: int, start: int = 0) -> list[Floats]:
    """The logits after each piece of `size` tokens."""
    found = []
    for at in range(start, len(tokens), size):
        row = engine.step([Slice(seq, tokens[at : at + size], at, "last")])[0]
        assert row is not None
        found.append(row[-1].copy())
    return found


def test_decode_agrees_with_float32_caches(folder: Path, eight: Engine, tokens: list[int]) -> None:
    whole = opened(folder, "")
    rows = {name: np.array(fed(engine, 0, tokens, 1)) for name, engine in (("whole", whole), ("eight", eight))}
    whole.close()
    same = rows["whole"].argmax(axis=1) == rows["eight"].argmax(axis=1)
    assert same.mean() > 0.93
    assert np.abs(rows["whole"] - rows["eight"]).mean() < 0.1 * rows["whole"].std()


def test_the_cells_take_a_quarter(folder: Path, eight: Engine) -> None:
    whole = opened(folder, "")
    sizes = whole.info().kv_bytes, eight.info().kv_bytes
    whole.close()
    assert sizes[0] == 4 * sizes[1]
    assert eight.info().settings["kv_type"] == "int8"


def test_prompts_and_single_tokens_fill_alike(eight: Engine, tokens: list[int]) -> None:
    fed(eight, 0, tokens[:200], 200)
    fed(eight, 1, tokens[:200], SHORT - 1)
    one, other = (fed(eight, seq, tokens, 40, 200)[0] for seq in (0, 1))
    assert one.argmax() == other.argmax()
    assert np.abs(one - other).mean() < 0.15 * one.std()


@pytest.mark.parametrize("between", ["nothing", "trim", "decode", "another", "restore", "fork"])
def test_a_prompt_goes_on_the_same_whatever_came_between(eight: Engine, tokens: list[int], between: str) -> None:
    fed(eight, 0, tokens[:120], 60)
    expected = fed(eight, 0, tokens[:200], 40, 120)
    eight.drop(0)
    fed(eight, 0, tokens[:120], 60)
    seq = 0
    if between == "trim":
        fed(eight, 0, tokens[:180], 60, 120)
        eight.trim(0, 120)
    elif between == "decode":
        fed(eight, 0, tokens[:130], 1, 120)
        eight.trim(0, 120)
    elif between == "another":
        fed(eight, 2, tokens[40:140], 50)
    elif between == "restore":
        block, seq = eight.export_block(0, 0, 120), 3
        fed(eight, 3, tokens[50:100], 50)
        eight.drop(3)
        assert eight.import_block(3, 0, 120, block)
    elif between == "fork":
        eight.fork(0, 1)
        seq = 1
    found = fed(eight, seq, tokens[:200], 40, 120)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_damaged_graph_is_made_again(folder: Path, eight: Engine, tokens: list[int]) -> None:
    expected = fed(eight, 0, tokens[:60], 60)[0]
    graph = next(folder.glob("*/*.kv8-*.onnx"))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    again = opened(folder, "kv8")
    found = fed(again, 0, tokens[:60], 60)[0]
    again.close()
    assert np.array_equal(found, expected)
    assert [path.name for path in folder.glob("*/*.kv8-*.onnx")] == [graph.name]
