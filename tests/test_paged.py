"""Contexts longer than memory: exact where everything is read, bounded in RAM and on disk, and served like others."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from backends.engine import CacheFull, Engine, Floats, Slice, StepInterrupted
from backends.errors import BackendError, OutOfMemory, StorageFailed
from backends.kv_paging import Paging
from backends.onnx_blocks import BlockAttention, causal
from backends.onnx_session import options_for
from backends.page_choice import PARTS, RECENT, PageChoice
from backends.page_plan import LEAST, PAGE, page_shape
from backends.page_pool import BLOCK
from backends.registry import open_engine
from tests.engine_runs import STARTER, ask, engine, order
from tests.tiny_models import N_VOCAB, tiny_gguf

TEXT = [int(token) for token in np.random.default_rng(5).integers(0, N_VOCAB - 4, 480)]
SSD = 2**28
FAMILIES = ("llama", "qwen2", "qwen3")
EVERYTHING = -1


def ram_for(frames: int, kv_heads: int = 2, head_dim: int = 16, layers: int = 2) -> int:
    """Bytes that hold so many pages of each layer of a context of 512 tokens."""
    pages, page = 512 // PAGE, 2 * kv_heads * PAGE * head_dim * 4
    summaries = pages * layers * kv_heads * (PARTS * head_dim + 8)
    return summaries + 2 * BLOCK * page + frames * layers * (page + 12 * kv_heads)


def opened(folder: Path, family: str = "llama", *, frames: int = LEAST, tokens: int = 0, ssd: int = SSD) -> Engine:
    path = folder / f"{family}.gguf"
    if not path.exists():
        tiny_gguf(path, family, kind="F32")
    ram = ram_for(frames, head_dim=32 if family == "qwen3" else 16)
    paging = Paging(ram=ram, ssd=ssd, folder=str(folder / "pages"), tokens=tokens)
    load = order(path, "onnx", mode="paged", n_ctx=512, n_seq=4, cache=str(folder), paging=paging)
    return open_engine(load, lambda *_: None)


def fed(engine: Engine, tokens: list[int], size: int, start: int = 0) -> list[Floats]:
    """The logits after each piece of `size` tokens."""
    found = []
    for at in range(start, len(tokens), size):
        row = engine.step([Slice(0, tokens[at : at + size], at, "last")])[0]
        assert row is not None
        found.append(row[-1].copy())
    return found


def apart(one: list[Floats], other: list[Floats]) -> float:
    """The largest difference, in spreads of the logits."""
    return float(np.abs(np.array(one) - np.array(other)).max() / np.std(other))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paged")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, list[Floats]]:
    """What the engine with its whole cache in RAM says: of 440 tokens in pieces, and of 40 alone, by family."""
    found = {}
    for family in FAMILIES:
        path = tiny_gguf(folder / f"{family}.gguf", family, kind="F32")
        full = open_engine(order(path, "onnx", n_ctx=512, n_seq=4, cache=str(folder)), lambda *_: None)
        found[family] = fed(full, TEXT[:440], 100) + fed(full, TEXT, 1, 440)
        full.close()
    return found


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[Engine]:
    found = opened(folder)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def emptied(small: Engine) -> Iterator[None]:
    yield
    small.drop(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("frames", "tokens"), [(16, 0), (LEAST, EVERYTHING)], ids=["all in RAM", "all from the SSD"])
def test_reading_everything_is_ordinary_attention(
    folder: Path, whole: dict[str, list[Floats]], family: str, frames: int, tokens: int
) -> None:
    found = opened(folder, family, frames=frames, tokens=tokens)
    logits = fed(found, TEXT[:440], 100) + fed(found, TEXT, 1, 440)
    use = found.paged_use()
    found.close()
    assert apart(logits, whole[family]) < 1e-5
    assert use.attended == use.held > 0
    assert (use.read_bytes > 0) == (frames < 16) == (use.ssd_bytes > 0)


def test_prompts_are_read_exactly_and_answers_by_choice(small: Engine, whole: dict[str, list[Floats]]) -> None:
    assert apart(fed(small, TEXT[:440], 100), whole["llama"][:5]) < 1e-5
    chosen = fed(small, TEXT, 1, 440)
    use = small.paged_use()
    assert 1e-5 < apart(chosen, whole["llama"][5:]) < 3.0
    assert use.attended < use.held
    assert use.ram_bytes <= ram_for(LEAST)
    assert use.ssd_bytes == (len(TEXT) // PAGE) * 2 * 2 * PAGE * 16 * 2 * 4


@pytest.mark.parametrize("cut", [0, 33, 64, 200, 430])
def test_a_trimmed_sequence_goes_on_as_a_new_one(small: Engine, whole: dict[str, list[Floats]], cut: int) -> None:
    fed(small, TEXT[:440], 100)
    fed(small, TEXT[:460], 1, 440)
    assert small.trim(0, cut)
    assert apart(fed(small, TEXT[:440], 110, cut)[-1:], whole["llama"][4:5]) < 1e-5


def test_a_step_that_was_given_up_leaves_nothing(small: Engine, whole: dict[str, list[Floats]]) -> None:
    fed(small, TEXT[:230], 100)
    asked = iter([False, True])
    with pytest.raises(StepInterrupted):
        small.step([Slice(0, TEXT[230:440], 230, "last")], lambda: next(asked))
    assert apart(fed(small, TEXT[:440], 70, 230)[-1:], whole["llama"][4:5]) < 1e-5


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_step_alone(small: Engine, whole: dict[str, list[Floats]]) -> None:
    with files_up_to(4096), pytest.raises(StorageFailed, match="no room") as caught:
        fed(small, TEXT[:440], 100)
    assert "page_ssd" in caught.value.hint
    small.drop(0)
    assert apart(fed(small, TEXT[:440], 100), whole["llama"][:5]) < 1e-5


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"frames": LEAST - 1}, OutOfMemory, "too few"),
        ({"ssd": 100_000}, StorageFailed, "of SSD, 100000 are granted"),
    ],
    ids=["RAM", "SSD"],
)
def test_budgets_that_cannot_work_are_refused(
    folder: Path, fields: dict[str, int], kind: type[BackendError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        opened(folder, **fields)  # type: ignore[arg-type]
    assert "--ctx" in caught.value.hint


def test_the_context_ends_where_it_was_said_to(small: Engine) -> None:
    fed(small, (TEXT * 2)[:512], 256)
    with pytest.raises(CacheFull):
        small.step([Slice(0, [1], 512, "last")])


def test_files_have_no_name_and_orphans_go(folder: Path, small: Engine) -> None:
    pages = folder / "pages"
    fed(small, TEXT[:440], 100)
    assert list(pages.iterdir()) == []
    (pages / "tmp1234.kvpages").write_bytes(b"left by a crash")
    opened(folder).close()
    assert list(pages.iterdir()) == []


@pytest.mark.parametrize("tokens", [300_000, 1_000])
def test_a_plan_stays_within_its_bytes(tokens: int) -> None:
    ram = 512 * 2**20
    shape = page_shape(30, 3, 64, tokens, Paging(ram=ram, ssd=2**40))
    assert shape.frames * shape.layers * shape.layer_bytes < ram
    assert shape.frames <= shape.pages == -(-tokens // PAGE)


# -- the parts


@pytest.mark.parametrize("sizes", [(70,), (1, 40, 29)], ids=["one block", "three blocks"])
def test_blocks_sum_up_to_softmax(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    queries, keys, values = (rng.standard_normal((2, n, 64), dtype=np.float32) for n in (6, 70, 70))
    mixing = BlockAttention(64, options_for(1)).start(queries)
    at = 0
    for size in sizes:
        mixing.add(np.ascontiguousarray(keys[:, at : at + size]), np.ascontiguousarray(values[:, at : at + size]))
        at += size
    scores = queries.astype(np.float64) @ keys.transpose(0, 2, 1) / 8
    weights = np.exp(scores)
    expected = weights / weights.sum(axis=2, keepdims=True) @ values
    assert np.abs(mixing.result() - expected).max() < 1e-5


def test_the_mask_hides_what_comes_later() -> None:
    mask = causal(2, 3, 1)
    assert mask.shape == (1, 6, 4)
    assert ((mask[0] == 0).sum(axis=1) == [2, 3, 4, 2, 3, 4]).all()


def test_the_page_that_answers_is_chosen() -> None:
    rng = np.random.default_rng(4)
    choice, wanted = PageChoice(1, 2, 64, 16), (17, 40)
    query = rng.standard_normal((2, 3, 16)).astype(np.float32)
    for page in range(64):
        keys = rng.standard_normal((2, PAGE, 16)).astype(np.float32)
        for head, number in enumerate(wanted):
            if page == number:
                keys[head, 5] = 4 * query[head, 1]
        choice.note(0, page, keys)
    found = choice.choose(0, query, 64, 12)
    assert found.shape == (2, 12)
    assert all(number in row and (np.diff(row) > 0).all() for number, row in zip(wanted, found, strict=True))
    assert {0, *range(64 - RECENT, 64)} <= set(found[0]) & set(found[1])
    assert (choice.choose(0, query, 12, 12) == np.arange(12)).all()


# -- served by a child


async def test_long_contexts_are_served_like_others(tmp_path: Path, folder: Path) -> None:
    paging = Paging(ram=500 * 46_080, ssd=SSD, folder=str(tmp_path / "pages"))
    cache = str(folder)
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    async with engine(order(STARTER, "onnx", threads=2, cache=cache), tmp_path) as handle:
        prompt = await handle.tokenize(text, special=True, add_bos=False)
        ordinary = await ask(handle, prompt, max_tokens=12)
    async with engine(order(STARTER, "onnx", mode="paged", cache=cache, n_ctx=2048, paging=paging), tmp_path) as handle:
        # One sequence at a time: the others wait.
        first, second = await asyncio.gather(*(ask(handle, [*prompt], max_tokens=12) for _ in range(2)))
        filler = await handle.tokenize("The tide comes in twice a day. " * 90, special=False, add_bos=False)
        long = await ask(handle, [*filler, *prompt], max_tokens=12, ignore_eos=True)
        more = await ask(handle, [*filler, *prompt, *long.ids()], max_tokens=2)
        late = await ask(handle, [*filler[5:], *prompt], max_tokens=40, deadline=0.05)
        stopped = await ask(handle, prompt, max_tokens=12, stop=("Paris",))
    assert first.text == second.text == ordinary.text
    assert long.end.usage.paged is not None
    assert 0 < long.end.usage.paged.attended < long.end.usage.paged.held
    assert long.end.usage.paged.ram_bytes <= paging.ram
    assert more.end.usage.cached_tokens > len(filler)
    assert late.end.reason == "deadline"
    assert (stopped.end.reason, stopped.end.stop) == ("stop", "Paris")
    assert list((tmp_path / "pages").iterdir()) == []


async def test_a_disk_that_fails_costs_the_request_alone(tmp_path: Path, folder: Path) -> None:
    pages = tmp_path / "pages"
    paging = Paging(ram=ram_for(LEAST), ssd=SSD, folder=str(pages))
    tiny_gguf(tmp_path / "tiny.gguf", kind="F32")
    load = order(tmp_path / "tiny.gguf", "onnx", mode="paged", cache=str(folder), n_ctx=512, paging=paging)
    async with engine(load, tmp_path) as handle:
        pages.rmdir()
        pages.write_text("no folder any more", encoding="utf-8")
        with pytest.raises(StorageFailed, match="SSD"):
            await ask(handle, TEXT, max_tokens=1)
        assert (await ask(handle, TEXT[:20], max_tokens=3, ignore_eos=True)).end.reason == "length"
