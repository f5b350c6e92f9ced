"""The doctor's report on this machine, on recorded limits, and its words for people."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localai.device import Host, inspect
from localai.doctor import Report, device_json, examine, home_problems, to_json
from localai.doctor_text import render, render_device
from localai.engine_build import Advice
from localai.gpu import Gpu
from localai.surroundings import DaemonSeen, Home, look_at_home
from localai.tested import Key, Setting, TestedSettings, Verdict
from tests.daemon_fixture import free_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "localai"
    path.mkdir(mode=0o700)
    return path


def look(home: Path, **changes: object) -> Report:
    settings: dict[str, object] = {"port": free_port(), "user_home": home.parent, "environment": {}}
    return examine(home, **(settings | changes))  # type: ignore[arg-type]


def whats(report: Report) -> str:
    return "\n".join(f"{problem.severity}: {problem.what}" for problem in report.problems)


def test_a_sound_home_is_healthy_and_looked_at_quickly(home: Path) -> None:
    start = os.times()
    report = look(home)
    # What it takes, its child with the engine too, and not how long others make it wait.
    assert sum(os.times()[:4]) - sum(start[:4]) < 3
    assert report.healthy, whats(report)
    assert report.engine is not None
    assert report.packages["llama-cpp-python"] == report.engine.version
    assert report.port.state == "free"
    assert report.home.mode == "0700"
    assert report.starter


def test_json_is_one_plain_object(home: Path) -> None:
    report = look(home)
    values = json.loads(json.dumps(to_json(report)))
    assert values["device"]["fingerprint"] == report.device.fingerprint
    assert values["engine"]["backends"] == list(report.engine.backends) if report.engine else False
    assert values["healthy"] is True
    assert set(device_json(report.device)) >= {"cpu", "memory", "gpus", "fingerprint"}


def test_a_taken_port_names_its_owner(home: Path, taken_port: int) -> None:
    report = look(home, port=taken_port)
    assert report.port.state == "taken"
    assert f"process {os.getpid()}" in report.port.by
    assert f"error: port {taken_port} is taken by" in whats(report)
    assert not report.healthy
    own = look(home, port=taken_port, daemon=DaemonSeen(True, os.getpid(), "0.1.0"))
    assert own.port.state == "localai"
    assert own.healthy


def test_without_tcp_no_port_is_needed(home: Path) -> None:
    assert look(home, port=0).port.state == "off"


def test_open_permissions_are_problems(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "run.sock"
    # The address of a socket is limited to about 100 bytes, which a temporary folder's name can exceed.
    monkeypatch.chdir(home)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
        path.chmod(0o666)
        home.chmod(0o755)
        report = look(home, socket_path=path)
    assert report.home.socket_mode == "0666"
    assert "error: others may use the daemon's socket" in whats(report)
    assert "warning: others may enter" in whats(report)
    assert report.problems[0].severity == "error"


def test_a_home_below_a_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    report = look(tmp_path / "file" / "localai")
    assert "cannot be written" in whats(report)


def test_an_unreadable_memory_of_self_tests_is_reported(home: Path) -> None:
    report = look(home, tested=TestedSettings(home))
    assert "cannot read localai" in whats(report)


def test_what_self_tests_turned_off_is_told(home: Path) -> None:
    tested = TestedSettings(home / "tested.json")
    key = Key(inspect(home).fingerprint, "llama.cpp", "llama-cpp-python 0.3.36 (CPU)", "llama Q4_1")
    tested.record(key, Setting.of(extra_bufts=True), Verdict("died", "SIGSEGV"))
    tested.record(key, Setting.of(extra_bufts=False), Verdict("survived"))
    report = look(home, tested=tested)
    assert report.turned_off[0].startswith("AMX tile kernels and weight repacking turned off: ")
    assert "SIGSEGV" in render(report)


def test_other_programs_stores_are_found(home: Path, tmp_path: Path) -> None:
    (tmp_path / ".ollama/models").mkdir(parents=True)
    (tmp_path / "hf/hub").mkdir(parents=True)
    report = look(home, environment={"HF_HOME": str(tmp_path / "hf")})
    found = {(store.program, store.path) for store in report.stores}
    assert found >= {("Ollama", str(tmp_path / ".ollama/models")), ("Hugging Face hub", str(tmp_path / "hf/hub"))}


def test_limits_of_a_small_container_are_explained(home: Path, tmp_path: Path) -> None:
    files = {
        "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\nSwapTotal: 0 kB\n",
        "proc/cpuinfo": "model name : X\nflags : avx2 fma\n",
        "proc/mounts": f"disk / ext4 rw 0 0\nserver:/export {tmp_path} nfs4 rw 0 0\n",
        "proc/sys/vm/overcommit_memory": "2\n",
        "sys/fs/cgroup/memory.max": str(2 << 30),
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    host = Host(tmp_path, "Linux", "6.1.0", "x86_64", frozenset((0, 1)))
    text = whats(look(home, host=host))
    assert "note: a control group allows 2.0 GiB of memory" in text
    assert "note: a control group allows 1 of 2 cores" in text
    assert "note: 2.0 GiB of memory and no swap" in text
    assert "warning: the kernel promises no more memory" in text
    assert "is on a network disk (nfs4)" in text


@pytest.mark.parametrize(
    ("free", "severity"), [(100 << 20, "error"), (2 << 30, "warning")], ids=["full disk", "little left"]
)
def test_disk_space_is_judged(free: int, severity: str) -> None:
    home = Home("/home/ada/localai", True, "0700", True, "ext4", free, "")
    assert [problem.severity for problem in home_problems(home)] == [severity]


def test_look_at_home_before_it_is_made(tmp_path: Path) -> None:
    found = look_at_home(tmp_path / "a" / "b", tmp_path / "none.sock", Path("/"))
    assert (found.exists, found.mode, found.writable, found.socket_mode) == (False, "", True, "")


def test_render_is_plain_and_keeps_commands_whole(home: Path) -> None:
    report = look(home)
    command = 'CMAKE_ARGS="-DGGML_CUDA=on" ' + "pip install " + "x" * 150
    advice = Advice("NVIDIA X", "built for CPU only", command, ("nvcc (the CUDA toolkit)",))
    device = replace(report.device, gpus=(Gpu("nvidia", "NVIDIA X", None, "pci", ""),))
    text = render(replace(report, device=device, gpu_advice=(advice,)))
    assert f"rebuild        {command}\n" in text
    assert text.isascii()
    assert all(len(line) <= 100 or command in line or str(home) in line for line in text.splitlines())
    for title in ("Device", "Engine", "Installation", "Turned off or tuned by self-tests"):
        assert f"\n{title}\n" in f"\n{text}\n"
    assert device.fingerprint in render_device(device)


def test_render_says_why_the_engine_cannot_be_used(home: Path) -> None:
    report = replace(look(home), engine=None, engine_error="the engine library ended with SIGILL while loading")
    assert "cannot be used: the engine library ended with SIGILL" in render(report)
