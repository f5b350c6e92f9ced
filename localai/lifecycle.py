"""Start, find and stop the daemon from another process. Waits only as long as something is happening."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from localai.client import Client
from localai.config import Config
from localai.errors import DaemonUnreachable, LocalaiError, OutOfResources

_START_S = 90.0
"""On a busy machine a start may take long; one that fails is seen at once, because its process has ended."""
_STOP_S = 60.0
_LOOK_S = 0.02


def client(config: Config) -> Client:
    """A client on the home's Unix socket; nothing is sent yet."""
    return Client(config.socket, app="localai")


def is_running(config: Config) -> bool:
    """True where a daemon answers on the home's socket. One that starts listens before it answers: that is awaited."""
    try:
        client(config).get("/health", timeout=_START_S)
    except DaemonUnreachable:
        return False
    return True


def ensure_running(config: Config, flags: dict[str, object] | None = None) -> bool:
    """Start the daemon unless one answers already; True where this call started it.

    Raises DaemonUnreachable with the daemon's own last words where it cannot start.
    """
    if is_running(config):
        return False
    make_folders(config.home)
    with (config.home / "run" / "start.lock").open("a") as lock:
        # Of two who want to start it, the second finds it started.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return not is_running(config) and _started(config, flags or {})


def _started(config: Config, flags: dict[str, object]) -> bool:
    begin = config.daemon_log.stat().st_size if config.daemon_log.exists() else 0
    with config.daemon_log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "localai", "serve", "--quiet", *_arguments(flags)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, "LOCALAI_HOME": str(config.home)},
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if is_running(config):
            return True
        if child.poll() is not None and not is_running(config):
            raise DaemonUnreachable(
                "the daemon did not start: " + _last_words(config.daemon_log, begin), "`localai logs`"
            )
        time.sleep(_LOOK_S)
    raise DaemonUnreachable(f"the daemon did not answer within {_START_S:.0f} s", "`localai logs` tells why")


def stop(config: Config) -> bool:
    """Ask the daemon to end, and wait until it has; False where none was running."""
    try:
        client(config).post("/localai/stop", {})
    except DaemonUnreachable:
        return False
    deadline = time.monotonic() + _STOP_S
    while config.socket.exists():
        if time.monotonic() > deadline:
            raise LocalaiError("the daemon has not ended yet", "it may be finishing a request; `localai logs`")
        time.sleep(_LOOK_S)
    return True


def make_folders(home: Path) -> None:
    """Make the home and its folders for this user alone. Raises OutOfResources where that is not possible."""
    try:
        for folder in (home, home / "run", home / "logs"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutOfResources(
            f"the data folder cannot be written: {error.strerror}", "mend its permissions, or set LOCALAI_HOME"
        ) from error


def _arguments(flags: dict[str, object]) -> list[str]:
    return [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def _last_words(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
