"""Engines that cannot cut their KV into blocks: whole sequences leave the cells and come back, uncut where need be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.contract import EngineInfo
from backends.echo import EchoEngine
from backends.kv_frames import KvGrant
from tests.batcher_loop import Loop


class Sequences(EchoEngine):
    """Saves whole sequences, which can be cut after they came back."""

    can = frozenset({"generate", "trim", "fork", "save"})

    def info(self) -> EngineInfo:
        return msgspec.structs.replace(super().info(), capabilities=self.can)


class Window(Sequences):
    """What it restores can only be continued, as after a sliding window."""

    can = frozenset({"generate", "trim", "fork", "save", "whole_restore"})

    def trim(self, seq: int, pos: int) -> bool:
        assert seq not in self.restored or pos >= self.restored[seq]
        return super().trim(seq, pos)

    def restore(self, seq: int, state: bytearray) -> bool:
        done = super().restore(seq, state)
        self.restored[seq] = len(self._held[seq])
        return done

    def drop(self, seq: int) -> None:
        self.restored.pop(seq, None)
        super().drop(seq)

    @property
    def restored(self) -> dict[int, int]:
        found: dict[int, int] = self.__dict__.setdefault("_restored", {})
        return found


class Recurrent(Sequences):
    """Has one state, at its end: it is continued or dropped."""

    can = frozenset({"generate", "save", "whole_restore"})

    def trim(self, seq: int, pos: int) -> bool:
        raise AssertionError("a state cannot be cut")

    def fork(self, source: int, target: int) -> None:
        raise AssertionError("a state cannot be shared")


@pytest.mark.parametrize("ssd", [0, 10**6], ids=["ram", "restart"])
@pytest.mark.parametrize(
    ("engine", "partial"), [(Sequences, True), (Window, False), (Recurrent, False)], ids=["cut", "window", "recurrent"]
)
def test_whole_sequences_come_back(tmp_path: Path, engine: type[EchoEngine], partial: bool, ssd: int) -> None:
    kv = KvGrant(ram=10**6, ssd=ssd, folder=str(tmp_path / "kv"))
    tier = "ssd" if ssd else "ram"
    loop = Loop(tmp_path, engine=engine, kv=kv, digest="the same")
    first = "a conversation that began some time ago"
    assert cached(loop, 1, first) == {}
    if ssd:
        while loop.batcher.tend():
            pass
        loop.store.close(120)
        loop = Loop(tmp_path, engine=engine, kv=kv, digest="the same")
    else:
        # Another one drives it out of the cells.
        loop.add(2, "something else altogether", max_tokens=2)
        loop.add(3, "and a third one beside it", max_tokens=2)
        loop.run()
    held = first + first[:7]
    assert cached(loop, 4, held + " and goes on") == {tier: len(held)}
    branch = cached(loop, 5, first[:20] + ", but quite another one now")
    assert (sum(branch.values()) == 20) == partial
    assert loop.text(5).startswith(first[:5])


def cached(loop: Loop, number: int, prompt: str) -> dict[str, int]:
    loop.add(number, prompt, max_tokens=8)
    loop.run()
    usage = loop.events[-1].usage  # type: ignore[union-attr]
    return {str(tier): count for tier, count in usage.cached_by_tier.items()}
