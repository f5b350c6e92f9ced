"""Programs with tokens: what each may do, how often, in which part of the memory, and nothing once it is revoked."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localai.api.visitor import needed
from localai.errors import BadRequest, Conflict, NotFound, TooBusy, Unauthorized
from localai.quotas import Quotas
from localai.tokens import PREFIX, Token, Tokens
from tests.daemon_fixture import Answer, Daemon, clean_environment, running, wait_for


class Program:
    """One client with a token of its own."""

    def __init__(self, daemon: Daemon, name: str, **rights: Any) -> None:
        made = daemon.client.post("/localai/tokens", {"name": name, **rights})
        self.daemon, self.name, self.secret = daemon, name, str(made["secret"])

    def ask(self, method: str, path: str, body: Any = None, *, unix: bool = False, key: bool = False) -> Answer:
        headers = {"x-api-key": self.secret} if key else {"Authorization": f"Bearer {self.secret}"}
        return self.daemon.ask(method, path, body, headers, unix=unix)

    def add(self, text: str, **fields: Any) -> Answer:
        return self.ask("POST", "/localai/memory", {"text": text, **fields})

    def found(self, query: str, **fields: Any) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self.ask("POST", "/localai/memory/search", {"query": query, **fields}).json["hits"]
        return hits


@pytest.fixture(scope="module")
def keeper(daemon: Daemon) -> Program:
    return Program(daemon, "keeper", scopes=["memory-read", "memory-write"])


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("POST", "/v1/chat/completions", ("infer",)),
        ("GET", "/api/tags", ("infer",)),
        ("GET", "/localai/status", ("admin",)),
        ("GET", "/localai/conversations", ("admin",)),
        ("GET", "/localai/memory", ("memory-read",)),
        ("POST", "/localai/memory", ("memory-write",)),
        ("POST", "/localai/memory/search", ("memory-read",)),
        ("POST", "/localai/memory/ask", ("infer", "memory-read")),
        ("POST", "/localai/memory/forget", ("memory-write",)),
        ("GET", "/localai/memory/export", ("memory-read",)),
        ("GET", "/localai/memory/watch", ("admin",)),
        ("POST", "/localai/memory/files", ("admin",)),
        ("GET", "/localai/memoryx", ("admin",)),
    ],
)
def test_what_a_request_takes(method: str, path: str, scopes: tuple[str, ...]) -> None:
    assert needed({"method": method, "path": path, "headers": []}) == scopes


def test_the_users_own_tools_take_the_users_rights() -> None:
    headers = [(b"x-localai-tools", b"all")]
    assert needed({"method": "POST", "path": "/v1/messages", "headers": headers}) == ("infer", "admin")


def test_a_secret_is_told_once_and_not_kept(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    made, secret = tokens.add("editor", ["infer"], requests_per_minute=3)
    file = tmp_path / "tokens.json"
    assert secret.startswith(PREFIX)
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Tokens(tmp_path).of(secret) == made
    assert tokens.of(secret[:-1]) is None
    with pytest.raises(Conflict):
        tokens.add("editor", ["admin"])
    assert tokens.remove("editor") == made
    assert tokens.of(secret) is None
    with pytest.raises(NotFound):
        tokens.remove("editor")


@pytest.mark.parametrize("name", ["", "../x", "UPPER", "a b", "x" * 65, "é"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="no name for a token"):
        Tokens(tmp_path).add(name, ["infer"])


def test_a_damaged_file_opens_nothing(tmp_path: Path) -> None:
    _, secret = Tokens(tmp_path).add("editor", ["admin"])
    (tmp_path / "tokens.json").write_text("{")
    assert Tokens(tmp_path).of(secret) is None
    assert (tmp_path / "tokens.json.corrupt").exists()


async def test_requests_come_at_an_even_rate() -> None:
    now = 0.0
    quotas = Quotas(lambda name, since: 0.0, clock=lambda: now)
    token = Token(name="a", digest="", created=0, requests_per_minute=6)
    for _ in range(6):
        await quotas.take(token, "token:a")
    with pytest.raises(TooBusy) as refused:
        await quotas.take(token, "token:a")
    assert refused.value.retry_after == 10
    now = 10.0
    await quotas.take(token, "token:a")
    await quotas.take(Token(name="b", digest="", created=0), "token:b")


def test_whoever_guesses_must_wait() -> None:
    now = 0.0
    quotas = Quotas(lambda name, since: 0.0, clock=lambda: now)
    for _ in range(20):
        with pytest.raises(Unauthorized):
            quotas.wrong()
    for _ in range(100):
        with pytest.raises(TooBusy):
            quotas.wrong()
    now = 61.0
    with pytest.raises(Unauthorized):
        quotas.wrong()


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "socket"])
def test_a_scope_opens_its_routes_and_no_others(daemon: Daemon, keeper: Program, unix: bool) -> None:
    assert keeper.ask("GET", "/localai/memory", unix=unix).status == 200
    assert keeper.ask("GET", "/localai/memory", unix=unix, key=True).status == 200
    for method, path in (("GET", "/localai/status"), ("POST", "/v1/chat/completions"), ("GET", "/localai/tokens")):
        refused = keeper.ask(method, path, {} if method == "POST" else None, unix=unix)
        assert (refused.status, "lacks the scope" in json.dumps(refused.json)) == (403, True)


def test_an_admin_may_what_the_owner_may(daemon: Daemon) -> None:
    admin = Program(daemon, "boss", scopes=["admin"])
    assert admin.ask("GET", "/localai/status").json["home"] == str(daemon.home)
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert admin.ask("POST", "/v1/chat/completions", body).status == 200
    assert [token["name"] for token in admin.ask("GET", "/localai/tokens").json["tokens"]]


def test_an_unknown_token_is_no_stranger(daemon: Daemon) -> None:
    for headers in ({"Authorization": "Bearer la-wrong"}, {"x-api-key": "la-wrong"}):
        for unix in (False, True):
            refused = daemon.ask("GET", "/v1/models", None, headers, unix=unix)
            assert (refused.status, refused.error["code"]) == (401, "unauthorized")
    assert daemon.ask("GET", "/v1/models", None, {"Authorization": "Bearer ollama"}).status == 200


def test_a_revoked_token_opens_nothing(daemon: Daemon) -> None:
    program = Program(daemon, "gone")
    assert program.ask("GET", "/v1/models").status == 200
    assert daemon.client.delete("/localai/tokens/gone")["removed"]["name"] == "gone"
    assert program.ask("GET", "/v1/models").status == 401


def test_a_program_speaks_in_its_own_name(daemon: Daemon, keeper: Program) -> None:
    said = keeper.add("The quokka lives on Rottnest Island.").json["id"]
    assert keeper.ask("GET", f"/localai/memory/{said}").json["source"] == "agent:keeper"
    for kind, name in (("person", "owner"), ("agent", "other"), ("file", "/etc/hosts")):
        refused = keeper.add("I am the owner.", source={"kind": kind, "name": name})
        assert (refused.status, "may not speak for" in refused.error["message"]) == (403, True)
    read = keeper.add("Seen on a page about emus.", source={"kind": "web", "name": "https://example.org"}).json["id"]
    assert keeper.ask("GET", f"/localai/memory/{read}").json["taint"] == "web"


def test_a_bound_token_sees_its_own_part(daemon: Daemon, keeper: Program) -> None:
    bound = Program(daemon, "bound", scopes=["memory-read", "memory-write"], namespaces=["work"])
    secret = keeper.add("The vault code is 4711 and a numbat.", namespace="private").json["id"]
    own = bound.add("The numbat project ends in May.").json["id"]
    assert bound.ask("GET", f"/localai/memory/{own}").json["namespace"] == "work"
    assert [hit["id"] for hit in bound.found("numbat")] == [own]
    assert {m["namespace"] for m in bound.ask("GET", "/localai/memory").json["memories"]} == {"work"}
    assert {r["namespace"] for r in bound.ask("GET", "/localai/memory/export").json["records"]} == {"work"}
    for method, path, body in (
        ("GET", f"/localai/memory/{secret}", None),
        ("POST", f"/localai/memory/{secret}/judge", {"verdict": "refuted"}),
        ("POST", "/localai/memory/forget", {"ids": [secret]}),
    ):
        assert bound.ask(method, path, body).status == 404
    for method, path, body in (
        ("POST", "/localai/memory/search", {"query": "vault", "namespace": "private"}),
        ("POST", "/localai/memory", {"text": "x y z", "namespace": "private"}),
        ("GET", "/localai/memory?namespace=private", None),
        ("POST", "/localai/memory/forget", {"query": "vault", "namespace": "private"}),
        ("GET", "/localai/memory/stats", None),
        ("POST", "/localai/memory/import", {"records": []}),
    ):
        assert bound.ask(method, path, body).status == 403, path
    gone = bound.ask("POST", "/localai/memory/forget", {"query": "numbat"}).json
    assert gone["ids"] == [own]
    assert keeper.ask("GET", f"/localai/memory/{secret}").status == 200


def test_recall_in_an_answer_takes_a_scope(daemon: Daemon) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "memory": True}
    assert Program(daemon, "plain").ask("POST", "/v1/chat/completions", body).status == 403
    reader = Program(daemon, "reader", scopes=["infer", "memory-read"], namespaces=["work"])
    assert reader.ask("POST", "/v1/chat/completions", body).status == 200
    assert reader.ask("POST", "/v1/chat/completions", {**body, "memory": "private"}).status == 403


def test_answers_count_for_their_token(daemon: Daemon) -> None:
    thrifty = Program(daemon, "thrifty", joules_per_day=1e-9)
    # Long enough for every sensor: the joules of a shorter answer may be unknown.
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 32, "ignore_eos": True}
    assert thrifty.ask("POST", "/v1/chat/completions", body).status == 200
    wait_for(lambda: [row for row in daemon.rows("queries") if row["app"] == "token:thrifty"])
    spent = thrifty.ask("POST", "/v1/chat/completions", body)
    assert (spent.status, spent.error["code"]) == (429, "energy_budget_spent")


def test_too_many_requests_are_told_when_to_come_back(daemon: Daemon) -> None:
    eager = Program(daemon, "eager", requests_per_minute=1)
    found = [eager.ask("GET", "/v1/models") for _ in range(2)]
    assert [answer.status for answer in found] == [200, 429]
    assert 1 <= int(found[1].headers["retry-after"]) <= 60


def test_the_audit_log_tells_who_did_what(daemon: Daemon, keeper: Program) -> None:
    keeper.add("The audit saw a bilby.")
    keeper.ask("GET", "/localai/status")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (daemon.home / "logs" / "audit.jsonl").read_text().splitlines()]

    expected = {
        ("token:keeper", "POST", "/localai/memory", 200),
        ("token:keeper", "GET", "/localai/status", 403),
        ("owner", "POST", "/localai/tokens", 200),
    }
    wait_for(lambda: expected <= {(x["who"], x["method"], x["path"], x["status"]) for x in lines()})
    assert "bilby" not in (daemon.home / "logs" / "audit.jsonl").read_text()
    assert not [x for x in lines() if x["path"] == "/v1/models" and x["status"] == 200]


def test_the_command_line_makes_lists_and_revokes(daemon: Daemon) -> None:
    made = daemon.cli("token", "add", "shell", "--scope", "memory-read", "--namespace", "work")
    secret = made.stdout.strip()
    assert secret.startswith(PREFIX)
    headers = {"Authorization": f"Bearer {secret}"}
    assert daemon.ask("GET", "/localai/memory", None, headers).status == 200
    assert "memory-read; namespaces work" in daemon.cli("token", "list").stdout
    assert secret not in daemon.cli("token", "list", "--json").stdout
    assert daemon.cli("token", "rm", "shell").stdout == "revoked shell\n"
    assert daemon.ask("GET", "/localai/memory", None, headers).status == 401


@pytest.fixture(scope="module")
def closed() -> Iterator[Daemon]:
    with running(LOCALAI_TOKENS="required") as daemon:
        yield daemon


def test_a_daemon_may_want_a_token_of_all(closed: Daemon) -> None:
    refused = closed.ask("GET", "/v1/models")
    assert (refused.status, "wants a token" in refused.error["message"]) == (401, True)
    assert closed.ask("GET", "/health").status == 200
    assert closed.ask("GET", "/v1/models", unix=True).status == 200
    assert Program(closed, "editor").ask("GET", "/v1/models").status == 200


_OTHER_USER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
try:
    line.sendall(b"GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(len(line.recv(100)))
except ConnectionError:
    print(0)
"""


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="only root can become another user")
def test_another_user_is_turned_away_whatever_the_mode(closed: Daemon) -> None:
    folders = [closed.home, closed.socket.parent]
    for folder in folders:
        folder.chmod(0o755)
    closed.socket.chmod(0o666)
    try:
        command = [sys.executable, "-c", _OTHER_USER, str(closed.socket)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env=clean_environment())
    finally:
        for folder in folders:
            folder.chmod(0o700)
        closed.socket.chmod(0o600)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(closed.socket))
        line.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
