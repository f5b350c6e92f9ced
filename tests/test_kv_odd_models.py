"""Models that keep a window or a state instead of all keys and values: what comes back is what was computed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backends.kv_frames import KvGrant
from tests.engine_runs import STARTER, Answer, ask, engine, order
from tests.odd_models import KINDS, WINDOW, write

PROMPT = random.Random(1).choices(range(1000, 20_000), k=4 * WINDOW)


def logprobs(answer: Answer) -> list[float | None]:
    return [token.logprob.logprob for token in answer.tokens[0] if token.logprob is not None]


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("odd") / "odd.gguf", STARTER)


async def test_a_conversation_goes_on_after_a_restart(path: Path, tmp_path: Path) -> None:
    """Its second turn computes the new tokens alone and says what it says without any cache, but for rounding."""
    grant = KvGrant(ram=64 << 20, ssd=1 << 30, folder=str(tmp_path / "kv"))
    load = order(path, "llama.cpp", n_ctx=1024, kv=grant)
    asked = {"max_tokens": 6, "ignore_eos": True, "logprobs": 2}
    async with engine(load, tmp_path) as handle:
        first = await ask(handle, PROMPT, **asked)
    turn = [*PROMPT, *first.ids(), *PROMPT[:20]]
    async with engine(load, tmp_path) as handle:
        second = await ask(handle, turn, **asked)
    async with engine(order(path, "llama.cpp", n_ctx=1024), tmp_path) as handle:
        fresh = await ask(handle, turn, **asked)
    # The last token of an answer is said, and not yet read by the model.
    assert dict(second.end.usage.cached_by_tier) == {"ssd": len(PROMPT) + 5}
    assert second.ids() == fresh.ids()
    assert logprobs(second) == pytest.approx(logprobs(fresh), abs=2e-2)


async def test_another_beginning_takes_nothing_from_it(path: Path, tmp_path: Path) -> None:
    """A state cannot be cut: a prompt that differs in the middle is computed from where a whole one ended, or anew."""
    grant = KvGrant(ram=64 << 20, ssd=1 << 30, folder=str(tmp_path / "kv"))
    other = [*PROMPT[:150], *reversed(PROMPT[:60])]
    asked = {"max_tokens": 6, "ignore_eos": True, "logprobs": 2}
    async with engine(order(path, "llama.cpp", n_ctx=1024, kv=grant), tmp_path) as handle:
        await ask(handle, PROMPT, **asked)
        found = await ask(handle, other, **asked)
    async with engine(order(path, "llama.cpp", n_ctx=1024), tmp_path) as handle:
        fresh = await ask(handle, other, **asked)
    assert found.ids() == fresh.ids()
    assert logprobs(found) == pytest.approx(logprobs(fresh), abs=2e-2)
