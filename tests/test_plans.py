"""Plans of models here and on a hub on loopback: what is fetched for them, what they say, and how they are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.gguf import read_header
from localai import errors
from localai.catalog import Catalog
from localai.config import load
from localai.foreign_stores import Stores
from localai.hub import Hub
from localai.library import Library
from localai.plans import Limits, no_readings, plan_model
from localai.pull import Puller
from localai.readings import Reading
from localai.remote_header import FIRST, LARGEST, RemoteHeaders
from localai.shapes import shape_of
from localai.variants import Finder
from tests.daemon_fixture import Daemon
from tests.engine_runs import STARTER
from tests.gguf_files import LLAMA, gguf_bytes, split_gguf
from tests.hub_server import HubServer, serving
from tests.test_roofline import STEPS, reading, shape

REPO = "me/Tiny-GGUF"
MIB = 2**20
TOKEN = "hf_secret_of_the_tests"
VOCABULARY = [f"a token with the number {i}" for i in range(40_000)]
METADATA = LLAMA | {"tokenizer.ggml.tokens": VOCABULARY}
LAYER = [(f"blk.0.{name}.weight", (256, 256), 8) for name in ("attn_q", "attn_k", "ffn_up", "ffn_down")]


def model(rows: int, kind: int = 8) -> bytes:
    return gguf_bytes(METADATA, [("token_embd.weight", (256, rows), kind), *LAYER])


FILES = {
    "Tiny-Q8_0.gguf": model(40_000),
    "Tiny-Q4_0.gguf": model(40_000, 2),
    "Other-Q6_K.gguf": b"never read",
    "mmproj-Tiny-F16.gguf": b"never read",
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving(HubServer(files={REPO: dict(FILES)})) as server:
        yield server


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", Catalog.load(tmp_path / "home"), Stores())


def planned(
    name: str, library: Library, hub: HubServer | None = None, readings: list[Reading] | None = None, **limits: int
) -> dict[str, Any]:
    finder = Finder(library, endpoint=hub.url if hub else None)
    config = load(environment={"LOCALAI_HOME": str(library.home)})
    source = (lambda _: readings) if readings else no_readings
    return plan_model(name, Limits(**{"ram": 4096 * MIB, **limits}).checked(), config, finder, source)


def test_a_plan_of_a_remote_model_fetches_its_header_only(hub: HubServer, library: Library) -> None:
    first = planned(f"hf:{REPO}:Q8_0", library, hub)
    assert first["here"] is False
    assert {row["quant"] for row in first["rows"]} == {"Q8_0"}
    weights = read_header_of(FILES["Tiny-Q8_0.gguf"]).weight_bytes
    assert {row["memory"]["weights_bytes"] for row in first["rows"]} == {weights}
    assert hub.sent < 5 * FIRST < len(FILES["Tiny-Q8_0.gguf"]) / 4
    ranges = [request.headers.get("range") for request in hub.gets()]
    assert ranges[0] == f"bytes=0-{FIRST - 1}"
    assert all(ranges)
    before = hub.sent
    assert planned(f"hf:{REPO}:Q8_0", library, hub)["rows"] == first["rows"]
    assert hub.sent - before < 2_000, "a header that was read once is read again"
    assert not library.store.root.exists()


def read_header_of(raw: bytes) -> Any:
    import io

    return read_header(io.BytesIO(raw))


def test_every_quantisation_of_a_repository_is_a_candidate(hub: HubServer, library: Library) -> None:
    rows = planned(f"hf:{REPO}", library, hub)["rows"]
    sizes = {row["quant"]: (row["memory"]["weights_bytes"], row["size_estimated"]) for row in rows}
    assert set(sizes) == {"Q8_0", "Q4_0"}
    assert sizes["Q4_0"] == (read_header_of(FILES["Tiny-Q4_0.gguf"]).weight_bytes, False)
    estimated, exact = sizes["Q8_0"][0], read_header_of(FILES["Tiny-Q8_0.gguf"]).weight_bytes
    assert sizes["Q8_0"][1]
    assert estimated == pytest.approx(exact, rel=0.001)
    assert len({request.path for request in hub.gets()}) == 1


def test_a_model_of_the_catalogue_is_planned_before_it_is_pulled(hub: HubServer, library: Library) -> None:
    raw = FILES["Tiny-Q8_0.gguf"]
    hub.files["Qwen/Qwen3-0.6B-GGUF"] = {"Qwen3-0.6B-Q8_0.gguf": raw, "Qwen3-0.6B-F16.gguf": raw}
    found = planned("qwen3-0.6b", library, hub)
    assert (found["model"], found["here"]) == ("qwen3-0.6b", False)
    assert {(row["quant"], row["size_estimated"]) for row in found["rows"]} == {("Q8_0", False), ("F16", True)}
    assert {row["quant"] for row in planned("qwen3-0.6b:F16", library, hub)["rows"]} == {"F16"}


def test_a_private_repository_is_read_with_the_token(hub: HubServer, library: Library) -> None:
    hub.token = TOKEN
    found = Finder(library, endpoint=hub.url, token=TOKEN).find(f"hf:{REPO}:Q8_0")
    assert found.found[0].quant == "Q8_0"
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in hub.gets())


def test_the_parts_of_a_split_model_count_together(hub: HubServer, library: Library) -> None:
    parts = split_gguf(3)
    hub.files[REPO] = {f"Big-Q8_0-{i:05d}-of-00003.gguf": raw for i, raw in enumerate(parts, start=1)}
    row = planned(f"hf:{REPO}", library, hub)["rows"][0]
    assert row["memory"]["weights_bytes"] == sum(read_header_of(raw).weight_bytes for raw in parts)


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        pytest.param({"cuts": [1000, 300_000]}, 5, id="cut connections"),
        pytest.param({"statuses": [503]}, 4, id="a busy hub"),
        pytest.param({"ignore_ranges": True}, 3, id="a hub without ranges"),
    ],
)
def test_a_hub_with_faults(hub: HubServer, library: Library, fault: dict[str, Any], requests: int) -> None:
    for name, value in fault.items():
        setattr(hub, name, value)
    api = Hub(hub.url)
    repo = api.repository(REPO, "main")
    files = [file for file in repo.files if file.name == "Tiny-Q8_0.gguf"]
    headers = RemoteHeaders(api, library.home / "headers", pause_s=0.01).read(repo, files)
    assert headers == (read_header_of(FILES["Tiny-Q8_0.gguf"]),)
    assert len(hub.gets()) == requests


@pytest.mark.parametrize(
    ("name", "setting", "kind", "shown"),
    [
        pytest.param(f"hf:{REPO}:Q3_K", {}, errors.NotFound, "has no Q3_K", id="no such quantisation"),
        pytest.param("hf:me/nothing", {}, errors.NotFound, "no repository me/nothing", id="no such repository"),
        pytest.param(f"hf:{REPO}", {"token": TOKEN}, errors.Unauthorized, REPO, id="a private one"),
        pytest.param("smolm2", {}, errors.UnknownModel, "no model named 'smolm2'", id="a misspelt name"),
        pytest.param(
            f"hf:{REPO}:Q8_0", {"redirect": "http://example.org"}, errors.DownloadFailed, "not safe", id="redirected"
        ),
        pytest.param(f"hf:{REPO}:Q6_K", {}, errors.ModelBroken, "no sound GGUF", id="no GGUF"),
    ],
)
def test_refusals(
    hub: HubServer, library: Library, name: str, setting: dict[str, Any], kind: type[errors.LocalaiError], shown: str
) -> None:
    for key, value in setting.items():
        setattr(hub, key, value)
    with pytest.raises(kind) as caught:
        planned(name, library, hub)
    assert shown in caught.value.message


def test_a_header_without_end_is_given_up(hub: HubServer, library: Library) -> None:
    endless = gguf_bytes(LLAMA | {"tokenizer.ggml.tokens": ["x" * MIB] * 70})
    hub.files[REPO] = {"Tiny-Q8_0.gguf": endless}
    with pytest.raises(errors.ModelBroken, match="longer than 64 MiB"):
        planned(f"hf:{REPO}", library, hub)
    assert hub.sent < LARGEST + MIB


def test_an_installed_model_needs_no_hub(library: Library) -> None:
    found = planned("starter", library, vram=4096 * MIB)
    assert found["here"] is True
    assert found["architecture"] == "llama"
    assert {row["kv_type"] for row in found["rows"]} == {"f16", "q8_0", "q4_0"}
    assert all(row["gpu_layers"] == 0 for row in found["rows"]) or found["device"]["vram_bytes"]
    assert "doctor --calibrate" in found["hint"]
    assert bool(found["notes"]) is not bool(found["device"]["vram_bytes"])
    assert not any(row["measured"] for row in found["rows"])


def test_readings_of_this_device_make_the_prediction(library: Library) -> None:
    measured = [reading(shape(12, 768, "Q4_0"), step) for step in STEPS]
    rows = planned("starter", library, readings=measured)["rows"]
    own = [row for row in rows if row["kv_type"] == "f16" and row["backend"] == "llama.cpp"]
    assert all(row["measured"] and "6 readings of llama.cpp" in row["basis"] for row in own)
    widths = {row["measured"]: row["decode_tps"]["high"] / row["decode_tps"]["low"] for row in own}
    guess = planned("starter", library)["rows"][0]["decode_tps"]
    assert widths[True] < guess["high"] / guess["low"]


def test_what_is_pulled_is_planned_from_the_disk(hub: HubServer, library: Library) -> None:
    Puller(library, endpoint=hub.url, margin_bytes=0).pull(f"hf:{REPO}:Q8_0")
    heard = len(hub.asked)
    assert planned(f"hf:{REPO}:Q8_0", library, hub)["here"] is True
    assert len(hub.asked) == heard
    assert planned(f"hf:{REPO}", library, hub)["here"] is False
    offline = localai(library.home, f"hf:{REPO}", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout)["here"] is True


@pytest.mark.parametrize(("key", "value"), [("ctx", -1), ("tokens", 0), ("ram", -5), ("vram", 2**70)])
def test_limits_that_mean_nothing(key: str, value: int) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        Limits(**{key: value}).checked()
    assert caught.value.param == key


def test_the_shape_of_the_starter() -> None:
    found = shape_of([read_header(STARTER)])
    assert found.flops + found.head_flops == pytest.approx(2 * 134.5e6, rel=0.001)
    assert found.weight_bytes == found.resident_bytes, "its output layer is the token embedding"
    assert (found.kv_values, found.attention_flops, found.head_type) == (30 * 2 * 3 * 64, 30 * 9 * 4 * 64, "Q8_0")


EXPERTS = {"llama.expert_count": ("uint32", 8), "llama.expert_used_count": ("uint32", 2)}
WINDOW = {
    "general.architecture": "gemma3",
    **{key.replace("llama.", "gemma3."): value for key, value in LLAMA.items() if key.startswith("llama.")},
    "gemma3.attention.sliding_window": ("uint32", 128),
}


def test_experts_and_the_output_layer_are_counted_apart() -> None:
    tensors = [
        ("token_embd.weight", (64, 100), 1),
        ("output.weight", (64, 100), 8),
        ("blk.0.attn_q.weight", (64, 64), 1),
        ("blk.0.attn_norm.weight", (64,), 0),
        ("blk.0.ffn_up_exps.weight", (64, 32, 8), 1),
    ]
    found = shape_of([read_header_of(gguf_bytes(LLAMA | EXPERTS, tensors))])
    experts, dense, head = 2 * 64 * 32 * 8, 2 * 64 * 64 + 4 * 64, 64 * 100 // 32 * 34
    assert (found.experts, found.experts_used, found.expert_bytes) == (8, 2, experts)
    assert (found.head_bytes, found.head_type, found.head_flops) == (head, "Q8_0", 2 * 64 * 100)
    assert found.weight_bytes == dense + experts // 4 + head
    assert found.resident_bytes == dense + experts + head + 2 * 64 * 100
    assert (found.flops, found.expert_flops) == (2 * 64 * 64 + 2 * 64 * 32 * 2, 2 * 64 * 32 * 2)


def test_sliding_windows_are_known() -> None:
    found = shape_of([read_header_of(gguf_bytes(LLAMA | WINDOW))])
    assert (found.window, found.windowed) == (128, pytest.approx(5 / 6))


def localai(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LOCALAI_", "HF_"))}
    return subprocess.run(
        [sys.executable, "-m", "localai", "models", "plan", *arguments],
        env={**inherited, "LOCALAI_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )


def test_the_command_prints_one_object_or_a_table(tmp_path: Path, hub: HubServer) -> None:
    name = f"hf:{REPO}"
    as_json = localai(tmp_path, name, "--ctx", "512", "--ram", "2G", "--json", HF_ENDPOINT=hub.url)
    assert as_json.returncode == 0, as_json.stderr
    found = json.loads(as_json.stdout)
    assert (found["model"], found["device"]["ram_bytes"], found["tokens"]) == (name, 2 * 1024**3, 512)
    row = found["rows"][0]
    assert {"value", "low", "high"} == set(row["prefill_tps"]) == set(row["decode_tps"]) == set(row["ttft_ms"])
    table = localai(tmp_path, name, "--ctx", "512", "--ram", "2G", HF_ENDPOINT=hub.url)
    assert table.returncode == 0, table.stderr
    for shown in ("Q8_0", "Q4_0", "llama.cpp", "nothing was downloaded", "typical figures of such a CPU", "512"):
        assert shown in table.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "shown"),
    [
        pytest.param(("starter", "--ram", "50M"), {}, 1, "hint: raise the budget", id="nothing fits"),
        pytest.param(("starter", "--ram", "much"), {}, 2, "no size such as 4G", id="no size"),
        pytest.param(("starter", "--ctx", "100", "--tokens", "200"), {}, 2, "does not fit", id="prompt over context"),
        pytest.param((f"hf:{REPO}",), {"HF_HUB_OFFLINE": "1"}, 1, "HF_HUB_OFFLINE is set", id="offline"),
    ],
)
def test_refusals_of_the_command(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], code: int, shown: str
) -> None:
    done = localai(tmp_path, *arguments, **environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert shown in done.stderr


def test_the_daemon_plans_too(daemon: Daemon) -> None:
    found = daemon.ask("GET", "/localai/plan?model=starter&ctx=2048&tokens=1000&ram=2000000000", unix=True)
    assert found.status == 200
    assert {row["context"] for row in found.json["rows"]} == {2048}
    assert found.json["tokens"] == 1000
    refused = daemon.ask("GET", "/localai/plan?model=starter&ram=50000000", unix=True)
    assert (refused.status, refused.error["code"]) == (507, "out_of_resources")
    assert "--ram" in refused.error["hint"]
    assert daemon.ask("GET", "/localai/plan?model=starter").status == 403
