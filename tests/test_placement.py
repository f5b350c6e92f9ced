"""Where layers go: what a budget for GPU memory lets through, and what RPC workers take from this machine's charge."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from backends.gguf import read_shards
from localai import budget, config
from localai.catalog import Catalog
from localai.choice import Choice
from localai.device import Host, inspect
from localai.engine_build import EngineDevice
from localai.errors import OutOfResources
from localai.library import Library
from localai.local_model import LocalModel
from localai.orders import Orders
from localai.planner import Asked, Variant, Way, plan
from localai.plans import Limits, no_readings, room_on
from localai.shapes import shape_of
from localai.spread_plan import local_charge
from tests.daemon_fixture import running
from tests.engine_runs import STARTER
from tests.test_device import AMD, CPU_ONLY, MEMINFO, record

MIB = 2**20
HEADERS = read_shards(STARTER)
WORKER = ("192.168.1.20:50052",)


def orders(home: Path, draft: LocalModel | None = None, **settings: str) -> tuple[Orders, Choice]:
    environment = {"LOCALAI_HOME": str(home)} | {f"LOCALAI_{name.upper()}": text for name, text in settings.items()}
    chosen = config.load(environment=environment)
    choice = Choice(Library(home, Catalog.load(home)).resolve("starter"), "llama.cpp", 2048, "")
    return Orders(chosen, inspect(home), draft_for=lambda _model, _backend: draft), choice


def offloaded(need: budget.Charge, layers: int) -> int:
    count = HEADERS[0].number("block_count") or 1
    share = 1.0 if layers < 0 else layers / count
    return int(share * (need.weights + need.kv)) + (need.compute if layers else 0)


@pytest.mark.parametrize("mib", [64, 200, 260, 300, 4096])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_budget_for_gpu_memory_bounds_layers_and_their_kv(tmp_path: Path, mib: int, kv_type: str) -> None:
    made, choice = orders(tmp_path, vram=f"{mib}M", kv_type=kv_type)
    need = budget.charge(HEADERS[0], 2048, kv_type)
    order = made.order(choice, made.plan(choice, 2**34))
    assert offloaded(need, order.gpu_layers) <= mib * MIB
    assert (order.gpu_layers == -1) == (need.total <= mib * MIB)
    one_more = order.gpu_layers + 1
    assert order.gpu_layers == -1 or offloaded(need, one_more) > mib * MIB, "none is left out that fits"


def test_a_draft_model_shares_the_budget(tmp_path: Path) -> None:
    alone, choice = orders(tmp_path, vram="400M")
    both, _ = orders(tmp_path, draft=choice.model, vram="400M")
    layers = [made.order(choice, made.plan(choice, 2**34)).gpu_layers for made in (alone, both)]
    assert layers[0] == -1
    assert layers[1] == 0, "beside the whole of its draft model nothing is left"


def test_without_a_budget_all_layers_go(tmp_path: Path) -> None:
    made, choice = orders(tmp_path)
    assert made.order(choice, made.plan(choice, 2**34)).gpu_layers == -1


@pytest.mark.parametrize(("vram", "setting"), [(None, "300M"), (300 * MIB, "0"), (120 * MIB, "4G")])
def test_plans_stay_within_the_gpu_memory_of_a_recorded_machine(tmp_path: Path, vram: int | None, setting: str) -> None:
    tree = record(tmp_path / "tree", AMD | {"proc/meminfo": MEMINFO, "proc/cpuinfo": ""})
    device = inspect(tmp_path, Host(tree, "Linux", "x86_64"))
    card = EngineDevice("Vulkan0", "AMD", "gpu", device.gpus[0].memory_bytes)
    build = replace(CPU_ONLY, devices=(card,), gpu_offload=True)
    chosen = config.load(environment={"LOCALAI_HOME": str(tmp_path), "LOCALAI_VRAM": setting})
    room = room_on(device, build, chosen, Limits(vram=vram))
    assert room.vram == (300 * MIB if vram != 120 * MIB else vram)
    variant = Variant("Q4_1", shape_of(HEADERS), HEADERS[0])
    rows = plan([(variant, Way("llama.cpp", "", "", 2, "f16", True))], room, Asked(2048), no_readings(""))
    fitting = [row for row in rows if row.fits]
    assert fitting
    assert all(row.vram <= room.vram for row in fitting)
    assert max(row.gpu_layers for row in fitting) < 30 or room.vram >= fitting[0].need.total


def test_status_shows_the_budget_for_gpu_memory() -> None:
    with running(LOCALAI_VRAM="300M") as daemon:
        assert daemon.client.get("/localai/status")["memory"]["vram_bytes"] == 300 * MIB
        assert "at most 300 MiB of GPU memory" in daemon.cli("status").stdout


# -- RPC workers


@pytest.mark.parametrize(("layers", "kv_share"), [(-1, 0.0), (30, 0.0), (15, 0.5), (0, 1.0)])
def test_what_workers_take_is_not_charged_here(layers: int, kv_share: float) -> None:
    whole = budget.charge(HEADERS[0], 2048, "f16")
    here = local_charge(HEADERS, whole, layers)
    within = sum(tensor.size for tensor in HEADERS[0].tensors if re.match(r"blk\.", tensor.name))
    assert here.kv == pytest.approx(kv_share * whole.kv)
    assert here.weights <= whole.weights - (1 - kv_share) * within + 1
    table = next(tensor.size for tensor in HEADERS[0].tensors if tensor.name == "token_embd.weight")
    assert here.weights >= table, "the table of embeddings stays"
    assert here.compute == whole.compute


def test_a_model_too_large_for_this_machine_runs_on_workers(tmp_path: Path) -> None:
    made, choice = orders(tmp_path)
    alone = made.plan(choice, 2**34)
    spread = made.spread(choice, 2**34, WORKER)
    assert (spread.n_ctx, spread.kv_type, spread.workers) == (alone.n_ctx, alone.kv_type, WORKER)
    assert spread.total + spread.remote == alone.total
    assert spread.total < spread.remote + spread.total
    tight = made.spread(choice, spread.total, WORKER)
    assert tight.total <= spread.total < alone.total
    with pytest.raises(OutOfResources, match="beside its RPC workers"):
        made.spread(choice, spread.total // 2, WORKER)
