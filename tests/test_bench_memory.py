"""`localai bench --memory`: invented facts, a run against a real daemon, the table and the plots."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from localai.bench import memory_plot, png
from localai.bench.memory_size import QUESTIONS, MemoryRun, Size, facts, table
from localai.bench.stats import Estimate, wilson
from tests.daemon_fixture import Daemon, running


class Quiet:
    """Nobody watches."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.count = 0

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def resume(self, count: int) -> None:
        self.count = count

    def advance(self, count: int) -> None:
        self.count += count


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running(LOCALAI_CPU_WATTS="10") as started:
        yield started


def size(memories: int, right: int, joules: float | None) -> Size:
    spent = None if joules is None else Estimate(joules, 0.9 * joules, 1.1 * joules)
    given = {"questions": 20, "accuracy": wilson(right, 20), "found": wilson(20, 20), "joules": spent}
    return Size(memories=memories, quality="modelled", prompt_tokens=100.0, ttft_ms=50.0, seconds=0.1, **given)


def test_facts_are_frozen() -> None:
    few, many = facts(10, 1, "m-"), facts(10_000, 1, "m-")
    assert few == many[:10]
    most = facts(100_000, 1, "m-")
    assert many == most[:10_000]
    assert len({fact.text.rpartition(" is ")[0] for fact in most}) == 100_000
    assert facts(10, 2, "m-") != few


def test_a_run_finds_what_was_remembered_and_leaves_nothing(daemon: Daemon) -> None:
    watcher = Quiet()
    before = daemon.client.get("/localai/memory/stats")
    run = MemoryRun(daemon.client, daemon.echo("size.echo", 1), "", (0, 10, 40), 1, watcher)
    none, few, many = run.run()
    assert [each.memories for each in (none, few, many)] == [0, 10, 40]
    assert (none.found.value, few.found.value) == (0.0, 1.0)
    assert many.found.value >= 0.9
    assert none.prompt_tokens < few.prompt_tokens
    assert few.joules is not None
    assert few.joules.value > 0
    assert watcher.count == 3 * QUESTIONS
    assert (none.gained, none.lost, none.p) == (0, 0, 1.0)
    assert watcher.stages[-1] == "forgetting them"
    assert daemon.client.get("/localai/memory/stats")["memories"] == before["memories"]


def test_table_and_plot_show_every_size() -> None:
    sizes = [size(0, 0, 1.0), size(10, 18, 1.5), size(100, 15, None)]
    lines = table(msgspec.to_builtins(sizes)).splitlines()
    assert len(lines) == 4
    assert "90% [70%, 97%]" in lines[2]
    assert "unknown" in lines[3]
    drawing = memory_plot.svg(sizes)
    assert drawing.count("<circle") == 5
    assert drawing.startswith("<svg")


@pytest.mark.skipif(not png.available(), reason="the extra `png` is not installed")
def test_an_svg_becomes_a_png() -> None:
    drawing = png.drawn(memory_plot.svg([size(0, 0, 1.0), size(10, 18, 1.5)]))
    assert drawing.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(drawing[16:20], "big") == 1280


def test_two_models_are_refused(daemon: Daemon) -> None:
    done = daemon.cli("bench", "--memory", "-m", "a", "-m", "b")
    assert done.returncode == 2
    assert "hint:" in done.stderr
