"""The daemon as a process: one per home, gone cleanly, whole after being killed; and what it keeps."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from localai.daemon import GRACE_S
from tests.daemon_fixture import Answer, Daemon, answers, events_of, free_port, resting, running, wait_for


def test_a_home_has_one_daemon(daemon: Daemon) -> None:
    second = daemon.cli("serve", "--port", str(free_port()))
    assert second.returncode == 1
    assert "a daemon runs already here" in second.stderr
    assert "hint: " in second.stderr
    assert daemon.ask("GET", "/health", unix=True).status == 200


_SERVE_AND_LOOK = """
import os, signal, sys, threading, time
from threadpoolctl import threadpool_info

def look():
    while not os.path.exists(os.environ["LOCALAI_HOME"] + "/run/localai.sock"):
        time.sleep(0.05)
    print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=look, daemon=True).start()
sys.argv[1:] = ["serve", "--port", "0"]
from localai.cli import main
main()
"""


def test_no_thread_of_blas_can_hold_up_the_start_of_an_engine(tmp_path: Path) -> None:
    environment = {**os.environ, "LOCALAI_HOME": str(tmp_path)}
    command = [sys.executable, "-c", _SERVE_AND_LOOK]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() == "[1]", ran.stderr


def test_the_commands_start_and_stop_it() -> None:
    with resting() as daemon:
        assert daemon.cli("start").returncode == 0
        assert daemon.cli("start").stderr.startswith("already running")
        status = json.loads(daemon.cli("status", "--json").stdout)
        assert status["home"] == str(daemon.home)
        assert "no model is loaded" in daemon.cli("status").stdout
        assert daemon.cli("stop").stderr == "stopped\n"
        assert not daemon.socket.exists()
        assert not answers(daemon.port)
        assert daemon.cli("stop").stderr == "no daemon was running\n"
        assert daemon.cli("status").returncode == 1
        assert "stopped" in daemon.cli("logs").stdout


def test_two_who_start_it_at_once_share_one() -> None:
    with resting() as daemon:
        codes: list[int] = []
        starting = [threading.Thread(target=lambda: codes.append(daemon.cli("start").returncode)) for _ in range(3)]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        daemon.cli("stop")
        assert codes == [0, 0, 0]


class _Asking(threading.Thread):
    """A request in a thread; `answer` is there after `join`."""

    def __init__(self, daemon: Daemon, text: str, **fields: Any) -> None:
        super().__init__()
        self._work = lambda: daemon.chat(text, unix=True, **fields)
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        self.answer = self._work()


def test_a_stop_lets_a_running_request_finish(fresh: Daemon) -> None:
    asking = _Asking(fresh, "slowly, very slowly", model=fresh.echo("slow.txt", 250), max_tokens=19)
    wait_for(lambda: any(e["users"] for e in fresh.engines()))
    assert fresh.ask("POST", "/localai/stop", {}, unix=True).json == {"stopping": True}
    late = fresh.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
    assert late.status == 503
    assert int(late.headers["retry-after"]) > 0
    asking.join()
    assert asking.answer is not None
    assert asking.answer.json["choices"][0]["message"]["content"] == "slowly, very slowly"
    assert fresh.process is not None
    assert fresh.process.wait(60) == 0
    assert [row["finish"] for row in fresh.rows("queries")] == ["error", "length"]


def test_a_second_stop_does_not_wait(fresh: Daemon) -> None:
    asking = _Asking(fresh, "s" * 800, model=fresh.echo("slow.txt", 150), max_tokens=800)
    wait_for(lambda: any(e["users"] for e in fresh.engines()))
    assert fresh.process is not None
    fresh.process.send_signal(signal.SIGTERM)
    wait_for(lambda: fresh.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 503)
    begun = time.monotonic()
    assert fresh.end() == 0
    assert time.monotonic() - begun < GRACE_S
    asking.join()
    assert asking.answer is not None
    assert asking.answer.status == 503
    assert [row["finish"] for row in fresh.rows("queries")] == ["error", "error"]


def test_a_stop_during_a_load_ends_cleanly(fresh: Daemon) -> None:
    asking = _Asking(fresh, "hello", model="starter", max_tokens=1)
    wait_for(fresh.engines)
    assert fresh.end() == 0
    asking.join()
    assert asking.answer is not None
    assert asking.answer.status in (200, 503)


def test_a_taken_port_is_said_and_leaves_nothing() -> None:
    with resting() as daemon, closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in ("serve", "start"):
            failed = daemon.cli(command, "--port", port)
            assert failed.returncode == 1
            assert f"port {port} on 127.0.0.1 cannot be used" in failed.stderr
            assert "Traceback" not in failed.stderr
            assert not daemon.socket.exists()


@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/home"])
def test_a_home_that_cannot_be_written_is_said(home: str) -> None:
    with resting() as daemon:
        daemon.env["LOCALAI_HOME"] = home
        for command in (["serve"], ["start"], ["ask", "hello"]):
            failed = daemon.cli(*command)
            assert (failed.returncode, "data folder cannot be written" in failed.stderr) == (1, True), failed.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [("port = 'many'", "port"), ("prot = 1", "prot"), ("port = [", "config.toml"), ("ram = '4X'", "ram")],
)
def test_a_bad_setting_is_named(daemon: Daemon, tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    other = Daemon(tmp_path, daemon.port)
    del other.env["LOCALAI_PORT"]
    for command in (["serve"], ["ask", "hello"], ["status"]):
        failed = other.cli(*command)
        assert (failed.returncode, named in failed.stderr, "Traceback" in failed.stderr) == (2, True, False)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_daemon_takes_its_engines_along_and_loses_nothing(fresh: Daemon) -> None:
    model = fresh.echo("echo.txt", 0)
    chat = fresh.client.post("/localai/conversations", {"model": model})
    events_of(
        fresh.ask("POST", f"/localai/conversations/{chat['id']}/reply", {"content": "remember"}, unix=True).content
    )
    engine = fresh.engines()[0]["pid"]
    wait_for(lambda: fresh.rows("queries"))
    fresh.end(signal.SIGKILL)
    wait_for(lambda: not _alive(engine))
    fresh.start()
    kept = fresh.client.get(f"/localai/conversations/{chat['id']}")
    assert [(m["role"], m["content"]) for m in kept["messages"]] == [("user", "remember"), ("assistant", "remember")]
    assert fresh.chat("again", unix=True, model=model).status == 200
    wait_for(lambda: [row["finish"] for row in fresh.rows("queries")] == ["stop", "stop"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_killed_engine_costs_one_clear_error(fresh: Daemon, stream: bool) -> None:
    model = fresh.echo("echo.txt", 50)
    asking = _Asking(fresh, "a long answer " * 40, model=model, max_tokens=560, stream=stream)
    engine = wait_for(lambda: [e for e in fresh.engines() if e.get("steps", 0) > 4])[0]["pid"]
    os.kill(engine, signal.SIGKILL)
    asking.join(60)
    assert asking.answer is not None
    error = events_of(asking.answer.content)[-1]["error"] if stream else asking.answer.error
    assert asking.answer.status == (200 if stream else 502)
    assert error["code"] == "engine_failed"
    assert "SIGKILL" in error["message"]
    assert fresh.chat("next", unix=True, model=model).status == 200
    wait_for(lambda: [row["finish"] for row in fresh.rows("queries")] == ["error", "stop"])


def test_an_idle_engine_is_unloaded(daemon: Daemon) -> None:
    model = daemon.echo("long.txt", 0)

    def pids() -> list[int]:
        return [engine["pid"] for engine in daemon.engines() if engine["model"] == "echo:long.txt"]

    daemon.chat("hello", unix=True, model=model)
    pid = pids()[0]
    daemon.chat("hello", unix=True, model=model, keep_alive=0.5)
    wait_for(lambda: not pids())
    # It leaves the list before its process has ended.
    wait_for(lambda: not _alive(pid))


def test_a_conversation_is_held_and_answered_again(daemon: Daemon) -> None:
    model = daemon.echo("talk.txt", 0)
    chat = daemon.client.post("/localai/conversations", {"model": model, "system": ""})
    path = f"/localai/conversations/{chat['id']}"
    first, *chunks = events_of(daemon.ask("POST", f"{path}/reply", {"content": "hello there"}, unix=True).content)
    assert (first["type"], first["user"]["content"]) == ("message", "hello there")
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "hello there"
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    again = daemon.ask("POST", f"{path}/reply", {"parent": first["user"]["id"]}, unix=True)
    assert events_of(again.content)[0]["user"] is None
    shown = daemon.client.get(path)
    assert [m["role"] for m in shown["messages"]] == ["user", "assistant"]
    assert (shown["title"], shown["messages"][1]["model"]) == ("hello there", "echo:talk.txt")
    assert shown["messages"][1]["finish_reason"] == "stop"
    assert chat["id"] in [c["id"] for c in daemon.client.get("/localai/conversations")["conversations"]]
    assert daemon.ask("POST", f"{path}/reply", {"parent": first["assistant"]["id"]}, unix=True).status == 400
    assert daemon.ask("DELETE", path, unix=True).status == 200
    assert daemon.ask("GET", path, unix=True).status == 404


def test_a_first_question_sent_twice_becomes_a_second_branch(daemon: Daemon) -> None:
    model = daemon.echo("twice.txt", 0)
    chat = daemon.client.post("/localai/conversations", {"model": model})
    path = f"/localai/conversations/{chat['id']}"
    for _ in range(2):
        daemon.ask("POST", f"{path}/reply", {"content": "hello", "parent": None}, unix=True)
    shown = daemon.client.get(path)
    assert [m["role"] for m in shown["messages"]] == ["user", "assistant"]
    assert shown["messages"][0]["parent"] is None


def test_an_answer_that_was_left_is_kept_as_far_as_it_came(daemon: Daemon) -> None:
    model = daemon.echo("left.txt", 40)
    chat = daemon.client.post("/localai/conversations", {"model": model})
    path = f"/localai/conversations/{chat['id']}"
    text = "one two three four five six seven eight nine ten " * 9
    with closing(daemon.connection(unix=True)) as line:
        line.request("POST", f"{path}/reply", json.dumps({"content": text}), {"Content-Type": "application/json"})
        answer = line.getresponse()
        seen = b""
        while seen.count(b'"content"') < 12:
            seen += answer.read1(4096)
    said = wait_for(lambda: [m for m in daemon.client.get(path)["messages"][1:] if m["finish_reason"]])[0]
    assert said["finish_reason"] == "cancelled"
    assert text.startswith(said["content"])
    assert 5 < len(said["content"]) < len(text)


def test_the_ledger_tells_how_each_query_ended(daemon: Daemon) -> None:
    begun = time.time()
    daemon.chat("hello", model="starter")
    daemon.chat("x " * 9000, model="starter")
    daemon.chat("hello", model="no-such-model")

    def ended() -> list[dict[str, Any]]:
        return [row for row in daemon.rows("queries") if row["started"] >= begun]

    rows = wait_for(lambda: ended() if len(ended()) == 3 else None)
    assert [(row["finish"], row["error"]) for row in rows] == [
        ("length", None),
        ("error", "context_length_exceeded"),
        ("error", "model_not_found"),
    ]
    assert rows[0]["completion_tokens"] == 8
    assert rows[0]["total_ms"] >= rows[0]["ttft_ms"] > 0
    assert (rows[0]["backend"], rows[2]["backend"]) == ("llama.cpp", None)
    load = wait_for(lambda: next((row for row in daemon.rows("loads") if row["backend"] == "llama.cpp"), None))
    assert json.loads(load["stages"])
    assert load["total_ms"] > 0
    assert load["resident_bytes"] > 0


def test_a_second_daemon_may_have_another_home(daemon: Daemon) -> None:
    with running() as other:
        assert other.ask("GET", "/health").status == 200
        assert stat.S_ISSOCK(other.socket.stat().st_mode)
        assert daemon.ask("GET", "/health").status == 200
