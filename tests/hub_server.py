"""A hub on loopback: the listing, HEAD and ranged GET of files that huggingface_hub asks for, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/.+)?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HubServer:
    """What it holds and how it misbehaves; `asked` is what it heard."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    token: str | None = None
    gated: bool = False
    listed_sha256: dict[str, str] = field(default_factory=dict)
    etag_sha256: dict[str, str] = field(default_factory=dict)
    listed_bytes: dict[str, int] = field(default_factory=dict)
    lfs: bool = True
    redirect: str | None = None
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ignore_ranges: bool = False
    extra_bytes: bytes = b""
    gate: threading.Event | None = None
    sent: int = 0
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def gets(self) -> list[Asked]:
        return [request for request in self.asked if request.method == "GET" and "/api/" not in request.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the test output quiet."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        authorised = self.hub.token is None or self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        api, resolve = _API.fullmatch(path), _RESOLVE.fullmatch(path)
        if api and api["repo"] in self.hub.files:
            return self._listing(api["repo"]) if authorised or self.hub.gated else self._error(401, "")
        if resolve and resolve["repo"] in self.hub.files:
            if not authorised:
                return self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            return self._file(resolve["repo"], resolve["name"])
        return self._error(404 if authorised else 401, "RepoNotFound")

    def _listing(self, repo: str) -> None:
        siblings = []
        for name, raw in self.hub.files[repo].items():
            sha256 = self.hub.listed_sha256.get(name, hashlib.sha256(raw).hexdigest())
            size = self.hub.listed_bytes.get(name, len(raw))
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134} if self.hub.lfs else None
            siblings.append({"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs})
        body = json.dumps({"id": repo, "sha": self.hub.commit, "siblings": siblings, "tags": []}).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, repo: str, name: str) -> None:
        raw = self.hub.files[repo].get(name)
        if raw is None:
            return self._error(404, "EntryNotFound")
        sha256 = self.hub.etag_sha256.get(name, hashlib.sha256(raw).hexdigest())
        headers = {"X-Repo-Commit": self.hub.commit, "Accept-Ranges": "bytes", "ETag": '"plain"'}
        if self.hub.lfs:
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(raw))}
        if self.hub.redirect is not None:
            return self._answer(302, b"", headers | {"Location": self.hub.redirect + self.path})
        if self.command == "GET" and self.hub.statuses:
            return self._error(self.hub.statuses.pop(0), "")
        return self._body(raw, headers)

    def _body(self, raw: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.hub.ignore_ranges:
            wanted = None
        start = int(wanted[1]) if wanted else 0
        end = min(len(raw), int(wanted[2]) + 1) if wanted and wanted[2] else len(raw)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(raw)}"
        if self.hub.gate is not None and self.command == "GET":
            self.hub.gate.wait(120)
        cut = self.hub.cuts.pop(0) if self.hub.cuts and self.command == "GET" else None
        self._answer(206 if wanted else 200, raw[start:end] + self.hub.extra_bytes, headers, cut)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None:
            body, self.close_connection = body[:cut], True
        # Before it is sent: who has got it may look at once.
        self.hub.sent += len(body)
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.hub.sent -= len(body)
            self.close_connection = True


@contextmanager
def serving(hub: HubServer | None = None) -> Iterator[HubServer]:
    """Run a hub on a free port of 127.0.0.1 until the block ends."""
    hub = hub or HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
