"""What surrounds this installation: its home folder, its port, and the model folders of other programs.

Paths and a port number enter, frozen facts leave; judging them is the doctor's.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localai import sysfs
from localai.device import free_bytes

_STORES = {
    "Ollama": ("$OLLAMA_MODELS", "~/.ollama/models", "/usr/share/ollama/.ollama/models"),
    "LM Studio": ("~/.lmstudio/models", "~/.cache/lm-studio/models"),
    "Hugging Face hub": ("$HF_HUB_CACHE", "$HF_HOME/hub", "~/.cache/huggingface/hub"),
}
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


@dataclass(frozen=True, slots=True)
class DaemonSeen:
    """What the caller found out about the daemon."""

    running: bool
    pid: int | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Home:
    """Where state lives. `mode` and `socket_mode` are permission bits as octal text, '' for what is not there."""

    path: str
    exists: bool
    mode: str
    writable: bool
    file_system: str
    free_bytes: int
    socket_mode: str


@dataclass(frozen=True, slots=True)
class PortState:
    """Who has the daemon's TCP port: nobody, the daemon, another program (`by`, where told), or the administrator.

    `off`: port 0, the daemon does not use TCP.
    """

    number: int
    state: Literal["free", "localai", "taken", "reserved", "off"]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Store:
    """Another program's folder of models, found and usable in place."""

    program: str
    path: str


def look_at_home(path: Path, socket_path: Path | None, root: Path) -> Home:
    """Describe `path`, existing or not; `root` is where the kernel's files are."""
    absolute = path.absolute()
    existing = next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
    return Home(
        path=str(path),
        exists=os.path.exists(path),
        mode=_mode(path),
        writable=existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
        file_system=_file_system(existing.resolve(), root),
        free_bytes=free_bytes(path),
        socket_mode=_mode(socket_path) if socket_path else "",
    )


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}" if os.path.exists(path) else ""


def _file_system(path: Path, root: Path) -> str:
    """The type of the longest mount point that holds `path`, '' where there is no list of mounts."""
    best, kind = -1, ""
    for line in sysfs.text(root / "proc/mounts").splitlines():
        _, point, name, *_ = line.split()
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), name
    return kind


def look_at_port(number: int, daemon: DaemonSeen) -> PortState:
    """Try to take the port on both loopback addresses for a moment, as a starting daemon would."""
    if number == 0:
        return PortState(0, "off")
    refusals = {_refusal(family, address, number) for family, address in _LOOPBACK}
    if errno.EADDRINUSE in refusals:
        pid, by = _listener(number)
        mine = daemon.running and (pid is None or pid == daemon.pid)
        return PortState(number, "localai" if mine else "taken", by)
    return PortState(number, "reserved" if errno.EACCES in refusals else "free")


def _refusal(family: socket.AddressFamily, address: str, port: int) -> int:
    """The error number with which the system refuses the address, 0 for none."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except OSError as error:
        return error.errno or 0
    return 0


def _listener(port: int) -> tuple[int | None, str]:
    """Who listens on `port`: process id and a name for people; (None, '') where the system does not tell this user."""
    import psutil

    try:
        for link in psutil.net_connections(kind="tcp"):
            if link.status == psutil.CONN_LISTEN and link.laddr and link.laddr.port == port and link.pid:
                return link.pid, f"{psutil.Process(link.pid).name()} (process {link.pid})"
    except psutil.Error:
        return None, ""
    return None, ""


def other_stores(user_home: Path, environment: Mapping[str, str]) -> tuple[Store, ...]:
    """Model folders of other programs that exist, each once."""
    found: dict[Path, Store] = {}
    for program, places in _STORES.items():
        for place in places:
            variable, _, below = place.removeprefix("$").partition("/")
            if place.startswith("$"):
                path = Path(environment[variable]) / below if environment.get(variable) else None
            else:
                path = user_home / place[2:] if place.startswith("~/") else Path(place)
            if path and os.path.isdir(path):
                found.setdefault(path, Store(program, str(path)))
    return tuple(found.values())
