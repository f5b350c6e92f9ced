"""Kills engine children at random moments of a churn over a small KV cache, and looks for one wrong token.

    python -m tests.soak.kv_kills [--kills 300] [--starter]

The echo engine says its prompt again, so any wrong byte shows; with --starter greedy answers of the starter model are
compared with those of fresh engines. At the end nothing may be left that is nobody's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from backends.contract import Load
from backends.errors import EngineDied
from backends.handle import EngineHandle
from backends.kv import upkeep
from backends.kv_frames import KvGrant
from tests.engine_runs import STARTER, Answer, ask, echo_file, order
from tests.test_conformance import same_but_for_near_ties

_PROMPTS = 12


class Soak:
    """One folder, killed over and over. `checked` answers were compared, `cached` of their tokens restored."""

    def __init__(self, folder: Path, *, starter: bool, seed: int) -> None:
        self.folder = folder
        self._draw = random.Random(seed)
        self._starter = starter
        cap = 12 * (6_000_000 if starter else 700)
        kv = KvGrant(ram=cap // 3, ssd=cap, folder=str(folder / "kv"))
        self.cap = cap
        self._order: Load = (
            order(STARTER, "llama.cpp", n_ctx=1024, threads=2, kv=kv) if starter else order(echo_file(folder), kv=kv)
        )
        self._prompts = [self._prompt(number) for number in range(_PROMPTS)]
        self._expected: dict[int, Answer] = {}
        self.checked = self.cached = self.kills = 0

    def _prompt(self, number: int) -> list[int]:
        draw = random.Random(number % 3)
        ids = range(1000, 20_000) if self._starter else range(65, 91)
        shared = draw.choices(ids, k=260)
        own = random.Random(100 + number).choices(ids, k=20 + 15 * number)
        return shared + own

    async def learn(self) -> None:
        """What a fresh engine with an empty cache answers, which cuts prompts into the same blocks; one for each."""
        if not self._starter:
            return
        for number, tokens in enumerate(self._prompts):
            empty = KvGrant(ram=self.cap // 3, ssd=self.cap, folder=str(self.folder / f"empty {number}"))
            handle = await self._start(msgspec.structs.replace(self._order, kv=empty))
            self._expected[number] = await self._answer(handle, tokens)
            await handle.stop()
        assert self.cached == 0

    async def _answer(self, handle: EngineHandle, tokens: list[int]) -> Answer:
        fields: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "logprobs": 5} if self._starter else {}
        answer = await ask(handle, tokens, **fields)
        self.cached += answer.end.usage.cached_tokens
        return answer

    def _right(self, number: int, found: Answer) -> bool:
        """Other chunks of a prompt round otherwise, so a model's near ties may fall otherwise too."""
        if not self._starter:
            return found.ids() == self._prompts[number]
        return same_but_for_near_ties(self._expected[number], found)

    async def _start(self, load: Load) -> EngineHandle:
        return await EngineHandle.start(load, log=self.folder / "log", on_stage=lambda *_: None)

    async def life(self) -> None:
        """One child, from its start to its kill."""
        handle = await self._start(self._order)
        longest = 4.0 if self._starter else 0.8
        killer = asyncio.get_running_loop().call_later(self._draw.uniform(0, longest), _kill, handle)
        try:
            while True:
                number = self._draw.randrange(_PROMPTS)
                found = await self._answer(handle, self._prompts[number])
                if not self._right(number, found):
                    raise SystemExit(f"a wrong token after {self.kills} kills: prompt {number}")
                self.checked += 1
        except EngineDied:
            killer.cancel()
            self.kills += 1
            await handle.stop()

    def look(self) -> None:
        """The cap holds, now and in the index."""
        held = sum(path.stat().st_size for path in (self.folder / "kv").glob("*/*.kv"))
        if held > self.cap:
            raise SystemExit(f"{held} bytes are over the cap of {self.cap}")
        if self.kills % 7 == 0:
            upkeep.trim(self.folder / "kv", self.cap // 2)


def _kill(handle: EngineHandle) -> None:
    if handle.pid is not None:
        os.kill(handle.pid, signal.SIGKILL)


async def run(kills: int, *, starter: bool, seed: int) -> None:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="localai-soak-", ignore_cleanup_errors=True) as name:
        soak = Soak(Path(name), starter=starter, seed=seed)
        await soak.learn()
        while soak.kills < kills:
            await soak.life()
            soak.look()
        found = upkeep.sweep(Path(name) / "kv", read=True)
        left = upkeep.sweep(Path(name) / "kv", read=True)
    if left.bad or left.missing or left.orphans or found.bad:
        raise SystemExit(f"left behind: {found}, {left}")
    print(
        f"{soak.kills} kills in {time.monotonic() - begun:.0f} s: {soak.checked} answers right, {soak.cached} tokens "
        f"out of the cache; swept up {found.missing} rows and {found.orphans} orphans of {found.blocks} blocks",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--starter", action="store_true", help="the starter model instead of the echo engine")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(run(options.kills, starter=options.starter, seed=options.seed))


if __name__ == "__main__":
    main()
