"""Who may come in by which way: hosts, origins, the two sockets, and what strangers get to know."""

from __future__ import annotations

import http.client
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemon_fixture import Answer, Daemon, wait_for

ALLOW = "access-control-allow-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8642", 200),
        ("[::1]:8642", 200),
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8642", 403),
        ("127.0.0.1@evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.5", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_our_own_host_names_are_served(daemon: Daemon, host: str, status: int) -> None:
    assert _with_host(daemon, host).status == status


def _with_host(daemon: Daemon, host: str) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)) as line:
        line.putrequest("GET", "/v1/models", skip_host=True)
        line.putheader("Host", host)
        line.endheaders()
        answer = line.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:5173", 200),
        ("null", 403),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("file://", 403),
        ("http://[::1", 403),
    ],
)
def test_pages_from_elsewhere_are_refused(daemon: Daemon, origin: str, status: int) -> None:
    for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/chat/completions")):
        answer = daemon.ask(method, path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert answer.status == (204 if status == 200 and method == "OPTIONS" else status)
        assert answer.headers.get(ALLOW) == (origin if status == 200 else None)
        assert "access-control-allow-credentials" not in answer.headers
        assert status == 403 or answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("site", "status"), [("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_a_page_that_hides_its_origin_is_refused(daemon: Daemon, site: str, status: int) -> None:
    assert daemon.ask("GET", "/v1/models", headers={"Sec-Fetch-Site": site}).status == status


def test_an_error_is_readable_for_an_allowed_page(daemon: Daemon) -> None:
    answer = daemon.ask("POST", "/v1/chat/completions", b"{", {"Origin": "http://localhost:3000"})
    assert (answer.status, answer.headers[ALLOW]) == (400, "http://localhost:3000")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/localai/status"),
        ("GET", "/localai/queries"),
        ("POST", "/localai/stop"),
        ("GET", "/localai/conversations"),
        ("GET", "//localai/status"),
        ("GET", "/localai%2fstatus"),
        ("GET", "/v1/../localai/status"),
        ("HEAD", "/localai/status"),
    ],
)
def test_private_routes_are_not_served_on_tcp(daemon: Daemon, method: str, path: str) -> None:
    assert daemon.ask(method, path).status in (403, 404)


def test_private_routes_are_served_on_the_socket(daemon: Daemon) -> None:
    assert daemon.ask("GET", "/localai/status", unix=True).json["home"] == str(daemon.home)
    assert daemon.ask("GET", "/localai/queries?limit=2", unix=True).status == 200
    refused = daemon.ask("GET", "/localai/status", headers={"Origin": "https://evil.example"}, unix=True)
    assert refused.status == 403


def test_files_cannot_be_probed_over_tcp(daemon: Daemon, tmp_path: Path) -> None:
    there = tmp_path / "secret.gguf"
    there.write_bytes(b"GGUF")
    messages = []
    for path in (there, tmp_path / "absent.gguf"):
        for name in (str(path), f"echo:{path}"):
            answer = daemon.chat("x", model=name)
            assert answer.status == 404
            messages.append(answer.error["message"].replace(name, "NAME"))
    assert len(set(messages)) == 1
    assert daemon.chat("x", unix=True, model=str(there)).status == 422


ODD = ["../../../../etc/passwd", "..", "/etc/passwd", "models/../../x", "hf:../..:x", "a\0b", "x" * 10_000]


@pytest.mark.parametrize("name", ODD, ids=[name[:20] for name in ODD])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "socket"])
def test_odd_model_names_lead_nowhere(daemon: Daemon, name: str, unix: bool) -> None:
    answer = daemon.chat("x", unix=unix, model=name)
    assert answer.status == (400 if len(name) > 4096 else 404)
    assert len(answer.content) < 2000


def test_what_is_ours_is_for_this_user_alone(daemon: Daemon) -> None:
    daemon.chat("hello")
    assert stat.S_IMODE(daemon.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
    for name in ("ledger.db", "conversations.db"):
        assert stat.S_IMODE((daemon.home / name).stat().st_mode) == 0o600
    assert daemon.ask("POST", "/localai/tokens", {"name": "lock", "scopes": ["infer"]}, unix=True).status == 200
    # The list of models is remembered behind the answer that first needed it.
    assert daemon.ask("GET", "/v1/models").status == 200
    kept = wait_for(lambda: list((daemon.home / "cache").glob("*.json")))
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    # Whoever may open a lock may hold it, and stop the daemon so.
    locks = [stat.S_IMODE(path.stat().st_mode) for path in daemon.home.glob("*.lock")]
    assert {*locks} == {0o600}


def test_strangers_learn_no_paths(daemon: Daemon) -> None:
    broken = daemon.home / "models" / "broken"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "manifest.json").write_text(
        '{"id": "broken", "origin": "imported", "files": [{"name": "b.gguf", "bytes": 4}]}'
    )
    (broken / "b.gguf").write_bytes(b"GGUF")
    answers = [
        daemon.chat("x", model="broken"),
        daemon.chat("x", model="absent"),
        daemon.ask("GET", "/v1/models"),
        daemon.ask("GET", "/v1/models/broken"),
        daemon.ask("GET", "/metrics"),
        daemon.ask("GET", "/health"),
        daemon.ask("GET", "/localai/status"),
    ]
    assert [a.status for a in answers] == [422, 404, 200, 422, 200, 200, 403]
    for answer in answers:
        assert str(daemon.home).encode() not in answer.content
        assert str(Path.home()).encode() not in answer.content
        assert b"/home/" not in answer.content


def test_a_page_may_be_a_client_but_ask_for_no_tools(daemon: Daemon) -> None:
    """The headers that OpenAI's and Anthropic's clients send from a browser are allowed; the user's tools are not."""
    wanted = "authorization, x-stainless-lang, anthropic-version, x-localai-tools, x-evil"
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Headers": wanted}
    allowed = daemon.ask("OPTIONS", "/v1/messages", headers=headers).headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "x-stainless-lang", "anthropic-version", "x-api-key"} <= {*allowed}
    assert not {"x-localai-tools", "x-evil"} & {*allowed}
