"""Cases for every operation of the OpenAPI document, sent to a daemon: none may end in a fault or a surprise.

`python -m tests.fuzz.openapi --cases 3400` prints what it sent and what broke; the suite sends a short slice.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.daemon_fixture import Answer, Daemon, Json, running

_ENDS = ("/localai/stop",)
"""What ends the daemon is left out."""
_LONGEST_S = 60.0
_ALLOWED = (502, 503, 504, 507)
"""Of 5xx, what names a cause outside the daemon: no hub, an engine that rests, a passed deadline, no memory."""


@dataclass(slots=True)
class Findings:
    """What came of the cases. `broken` has a line for each case that should have ended otherwise."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def cases(self) -> int:
        return sum(self.statuses.values())


class Sender:
    """Sends cases to one daemon as a program that may do everything, on the model that `daemon` answers with."""

    def __init__(self, daemon: Daemon, found: Findings) -> None:
        self._daemon = daemon
        self._found = found
        made = daemon.ask("POST", "/localai/tokens", {"name": "fuzz", "scopes": ["admin"]}, unix=True)
        self._headers = {"Authorization": f"Bearer {made.json['secret']}"}

    def send(self, case: Any, promised: set[str]) -> None:
        """One case; what it broke is noted."""
        case.body = _tame(case.body, str(self._daemon.home))
        asked = case.as_transport_kwargs(base_url=self._daemon.url)
        path = _target(asked)
        body = _encoded(asked)
        headers = {**{k: v for k, v in asked["headers"].items() if _sendable(v)}, **self._headers}
        begun = time.monotonic()
        shown = f"{case.method} {path} {(body or b'')[:600]!r}"
        try:
            answer = self._ask(case.method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._found.broken.append(f"{type(error).__name__}: {error}: {shown}")
            return
        taken = time.monotonic() - begun
        self._found.slowest = max(self._found.slowest, (taken, shown))
        self._found.statuses[answer.status] += 1
        if answer.status >= 500 and answer.status not in _ALLOWED:
            self._found.broken.append(f"{answer.status} {answer.content[:300]!r}: {shown}")
        elif str(answer.status) not in promised:
            self._found.broken.append(f"{answer.status} is not in the document: {shown}")
        elif answer.status >= 400 and "error" not in answer.json:
            self._found.broken.append(f"{answer.status} without an error: {shown}")

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = self._daemon.connection()
        connection.timeout = _LONGEST_S
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


def check(daemon: Daemon, cases: int, *, seed: int | None = None) -> Findings:
    """Send `cases` in all, the same number to each operation; without a `seed`, the same ones every time."""
    document: Json = daemon.ask("GET", "/openapi.json").json
    found = Findings()
    sender = Sender(daemon, found)
    operations = [operation.ok() for operation in _operations(document)]
    kept = [operation for operation in operations if operation.path not in _ENDS]
    each = -(-cases // (2 * len(kept)))
    for operation in kept:
        promised = set(document["paths"][operation.path][operation.method]["responses"])
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and not operation.body and not operation.query:
                continue
            _play(operation.as_strategy(generation_mode=mode), each, seed, lambda c, p=promised: sender.send(c, p))
    return found


def _operations(document: Json) -> Any:
    return schemathesis.openapi.from_dict(document).get_all_operations()


def _play(strategy: Any, count: int, seed: int | None, send: Any) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        send(case)

    if seed is not None:
        from hypothesis import seed as seeded

        each = seeded(seed)(each)
    each()


def _tame(body: Any, home: str) -> Any:
    """The body with names of files inside the daemon's home, and half of the time a model that is there."""
    if not isinstance(body, dict):
        return body
    changed = dict(body)
    if isinstance(changed.get("folder"), str):
        changed["folder"] = f"{home}/{changed['folder'].lstrip('/')}"
    if isinstance(changed.get("paths"), list):
        changed["paths"] = [f"{home}/{p.lstrip('/')}" if isinstance(p, str) else p for p in changed["paths"]]
    if isinstance(changed.get("model"), str) and len(changed) % 2:
        changed["model"] = "default"
    return changed


def _target(asked: dict[str, Any]) -> str:
    from requests import Request

    prepared = Request(asked["method"], asked["url"], params=asked.get("params")).prepare()
    return prepared.path_url


def _encoded(asked: dict[str, Any]) -> bytes | None:
    if "json" in asked:
        return json.dumps(asked["json"]).encode()
    data = asked.get("data")
    return data.encode("utf-8", "replace") if isinstance(data, str) else data


def _sendable(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value.isascii()


@contextmanager
def target() -> Iterator[Daemon]:
    """A daemon whose default model repeats its prompt, and which reaches no hub."""
    with running(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_DISABLE_TELEMETRY="1") as daemon:
        daemon.end()
        daemon.env["LOCALAI_DEFAULT_MODEL"] = daemon.echo("echo.txt", 0)
        daemon.start()
        yield daemon


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3400)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    with target() as daemon:
        found = check(daemon, options.cases, seed=options.seed)
        alive = daemon.ask("GET", "/health").status
    for line in found.broken:
        print(line)
    print(f"{found.cases} cases, {len(found.broken)} broken, statuses {dict(sorted(found.statuses.items()))}")
    print(f"slowest: {found.slowest[0]:.2f} s, {found.slowest[1][:200]}")
    return 1 if found.broken or alive != 200 else 0


if __name__ == "__main__":
    sys.exit(main())
