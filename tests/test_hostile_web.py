"""What a web page, another program or a prepared file may try: each is refused, and leaves all as it was."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from localai.errors import NotFound
from localai.model_store import Manifest, ModelStore
from localai.tokens import Tokens
from tests.daemon_fixture import Daemon, running

CHAT = "/v1/chat/completions"
SAID = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def hurried() -> Iterator[Daemon]:
    """A daemon that waits two seconds for a request to arrive."""
    with running(LOCALAI_BODY_TIMEOUT="2") as started:
        yield started


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8642", "0x7f.1"])
def test_a_rebound_name_reaches_nothing(daemon: Daemon, host: str) -> None:
    answer = daemon.ask("POST", CHAT, SAID, {"Host": host, "Origin": f"http://{host}"})
    assert (answer.status, answer.error["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
        {"Origin": "http://localhost.evil.example"},
    ],
    ids=["named", "null", "hidden", "simple request", "look-alike"],
)
def test_a_post_from_another_site_is_refused(daemon: Daemon, headers: dict[str, str]) -> None:
    answer = daemon.ask("POST", CHAT, SAID, headers)
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


DRIPS = {
    "silence": (b"", b""),
    "half a line": (b"POST /v1/chat", b""),
    "endless headers": (HEAD, b"X-A: b\r\n"),
    "slow body": (HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "slow chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}
"""What a client sends at once, and then again and again."""


def test_who_takes_for_ever_is_cut_off(hurried: Daemon) -> None:
    answers: dict[str, bytes] = {}
    with ExitStack() as stack:
        address = ("127.0.0.1", hurried.port)
        lines = {name: stack.enter_context(socket.create_connection(address, timeout=0.05)) for name in DRIPS}
        for name, line in lines.items():
            line.sendall(DRIPS[name][0])
        deadline = time.monotonic() + 90
        while len(answers) < len(DRIPS) and time.monotonic() < deadline:
            for name in DRIPS.keys() - answers.keys():
                try:
                    lines[name].sendall(DRIPS[name][1])
                    answers[name] = lines[name].recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    answers[name] = b""
    assert answers.keys() == DRIPS.keys()
    # A reset may overtake the words: more was sent than was read.
    assert {answer.split(b"\r\n")[0] for answer in answers.values()} <= {b"", b"HTTP/1.1 408 Request Timeout"}
    assert hurried.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    "lines", [b"X-A: " + b"a" * 200_000, b"\r\n".join(b"X-%d: a" % n for n in range(20_000))], ids=["long", "many"]
)
def test_a_head_over_the_limit_is_cut_off(daemon: Daemon, lines: bytes) -> None:
    with closing(socket.create_connection(("127.0.0.1", daemon.port), timeout=30)) as line:
        try:
            line.sendall(HEAD + lines + b"\r\nContent-Length: 0\r\n\r\n")
            answer = line.recv(4096)
        except OSError:
            answer = b""
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
    assert daemon.ask("GET", "/health").status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_compressed_body_is_not_unpacked(daemon: Daemon, encoding: str) -> None:
    bomb = gzip.compress(json.dumps(SAID | {"padding": "a" * 5_000_000}).encode())
    assert len(bomb) < 1_000_000
    answer = daemon.ask("POST", CHAT, bomb, {"Content-Encoding": encoding})
    assert answer.status == 400


def test_guessing_tokens_is_slowed_down_and_shuts_nobody_out(hurried: Daemon) -> None:
    _, secret = Tokens(hurried.home).add("guest", ("infer",))
    wrong = [
        hurried.ask("GET", "/v1/models", headers={"Authorization": f"Bearer la-wrong-{number}"}) for number in range(30)
    ]
    assert {answer.status for answer in wrong} == {401, 429}
    assert wrong[-1].status == 429
    assert int(wrong[-1].headers["retry-after"]) > 0
    assert hurried.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {secret}"}).status == 200


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "..\\..\\passwd", "models/../../passwd"]
)
@pytest.mark.parametrize("path", ["/api/show", "/api/delete", "/api/copy", "/localai/unload"])
def test_a_name_leads_out_of_nothing(daemon: Daemon, path: str, name: str) -> None:
    method = "DELETE" if path == "/api/delete" else "POST"
    body = {"model": name, "source": name, "destination": f"../{name}"}
    answer = daemon.ask(method, path, body, unix=True)
    assert answer.status in (400, 404)
    assert not list(daemon.home.rglob("*passwd*"))


def test_links_in_the_store_lead_to_no_change_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.gguf").write_bytes(b"precious")
    store = ModelStore(tmp_path / "home")
    store.root.mkdir(parents=True)
    (store.root / "linked").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(NotFound):
        store.remove("linked")
    folder = store.folder("mine")
    folder.mkdir()
    (folder / "weights.gguf").symlink_to(elsewhere / "precious.gguf")
    for name in ("manifest.json", "manifest.new", "manifest.json.new"):
        (folder / name).symlink_to(elsewhere / "precious.gguf")
    store.publish(Manifest(id="mine", origin="imported", files=()))
    store.remove("mine")
    assert not folder.exists()
    assert (elsewhere / "precious.gguf").read_bytes() == b"precious"


def test_a_link_in_place_of_the_tokens_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("{}")
    (tmp_path / "tokens.json").symlink_to(target)
    Tokens(tmp_path).add("a", ("infer",))
    assert target.read_text() == "{}"
    assert not (tmp_path / "tokens.json").is_symlink()
