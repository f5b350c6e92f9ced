"""The daemon as a service of the user's session: a platform and paths enter, a unit file and a start leave.

Writes and removes one file of ours, systemd's user unit or launchd's agent; the texts are in `service_files`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localai.atomic import replace_file
from localai.errors import BadRequest, Conflict, OutOfResources
from localai.service_files import LABEL, UNIT, is_our_agent, is_our_unit, launch_agent, systemd_unit


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended: `code` 127 where it is not installed, `output` what it said."""

    code: int
    output: str


Runner = Callable[[Sequence[str]], Ran]


@dataclass(frozen=True, slots=True)
class Installed:
    """What was done. `active`: the service runs (after install) or is gone (after uninstall) for certain."""

    path: Path
    changed: bool
    active: bool
    message: str


@dataclass(frozen=True, slots=True)
class _Manager:
    """A platform's service manager: our file, the links that enabling makes, and the commands around them.

    `repeatable`: starting what runs, or stopping what does not, is no error there.
    """

    path: Path
    links: tuple[Path, ...]
    repeatable: bool
    ours: Callable[[bytes], bool]
    content: bytes
    start: tuple[tuple[str, ...], ...]
    restart: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    after_removal: tuple[tuple[str, ...], ...]
    running: tuple[str, ...]
    advice: str


def run(command: Sequence[str]) -> Ran:
    """The real runner: at most 60 s, no input."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        return Ran(127, f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Ran(124, f"{command[0]} did not end within 60 s")
    return Ran(done.returncode, (done.stderr or done.stdout).strip())


def install(
    platform: str,
    home_dir: Path,
    executable: str,
    localai_home: Path | None,
    runner: Runner = run,
    *,
    force: bool = False,
) -> Installed:
    """Write the service file where it differs, then enable and start the service; done again, it changes nothing.

    `platform` is `sys.platform`, `executable` the Python that has localai. Raises BadRequest on a platform without
    user services, Conflict where a file of that name is not ours, OutOfResources where it cannot be written.
    """
    manager = _manager(platform, home_dir, executable, localai_home.absolute() if localai_home else None)
    old = _present(manager, force)
    changed = old != manager.content
    if changed:
        replace_file(manager.path, manager.content, 0o644)
    running = runner(manager.running).code == 0
    if running and not changed:
        commands = manager.start if manager.repeatable else ()
    else:
        commands = manager.restart if running else manager.start
    failed = _first_failure(runner, commands)
    if failed:
        todo = "\n".join(f"  {' '.join(command)}" for command in manager.start)
        message = f"the service file is written, but was not started: {failed}\nto start it yourself:\n{todo}"
        return Installed(manager.path, changed, False, message)
    return Installed(
        manager.path, changed, True, f"localai runs as a service now, and at every login. {manager.advice}"
    )


def uninstall(platform: str, home_dir: Path, runner: Runner = run, *, force: bool = False) -> Installed:
    """Stop and disable the service and remove its file; nothing happens where there is none. Raises as `install`."""
    manager = _manager(platform, home_dir, "python3", None)
    if _present(manager, force) is None:
        return Installed(manager.path, False, True, "localai is not installed as a service")
    stops = manager.repeatable or runner(manager.running).code == 0
    failed = _first_failure(runner, manager.stop) if stops else ""
    try:
        for path in (manager.path, *manager.links):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutOfResources(f"cannot remove {manager.path.name}: {error.strerror}", "remove it by hand") from error
    failed = failed or _first_failure(runner, manager.after_removal)
    if failed:
        message = (
            f"the service file is removed, but the service manager said: {failed}\n`localai stop` stops the daemon"
        )
        return Installed(manager.path, True, False, message)
    return Installed(manager.path, True, True, "the service is stopped and removed; models and data stay")


def _present(manager: _Manager, force: bool) -> bytes | None:
    """The file as it is, None where there is none. Raises Conflict for one that somebody else wrote."""
    try:
        content = manager.path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutOfResources(
            f"cannot read {manager.path.name}: {error.strerror}", "make it readable for you"
        ) from error
    if not force and not manager.ours(content):
        hint = "move it away, or give --force to replace it"
        raise Conflict(f"{manager.path.name} exists and was not written by localai", hint)
    return content


def _first_failure(runner: Runner, commands: Sequence[Sequence[str]]) -> str:
    for command in commands:
        ran = runner(command)
        if ran.code:
            return ran.output or f"{' '.join(command)} ended with {ran.code}"
    return ""


def _manager(platform: str, home_dir: Path, executable: str, localai_home: Path | None) -> _Manager:
    if platform.startswith("linux"):
        return _systemd(home_dir, executable, localai_home)
    if platform == "darwin":
        return _launchd(home_dir, executable, localai_home)
    raise BadRequest(f"no user services are known on {platform}", "`localai start` starts the daemon in the background")


def _systemd(home_dir: Path, executable: str, localai_home: Path | None) -> _Manager:
    def control(*words: str) -> tuple[str, ...]:
        return ("systemctl", "--user", *words)

    folder = home_dir / ".config/systemd/user"
    return _Manager(
        path=folder / UNIT,
        links=(folder / "default.target.wants" / UNIT,),
        repeatable=True,
        ours=is_our_unit,
        content=systemd_unit(executable, localai_home),
        start=(control("daemon-reload"), control("enable", "--now", UNIT)),
        restart=(control("daemon-reload"), control("enable", UNIT), control("restart", UNIT)),
        stop=(control("disable", "--now", UNIT),),
        after_removal=(control("daemon-reload"),),
        running=control("is-active", "--quiet", UNIT),
        advice="`loginctl enable-linger` keeps it running while you are logged out.",
    )


def _launchd(home_dir: Path, executable: str, localai_home: Path | None) -> _Manager:
    domain = f"gui/{os.getuid()}"
    path = home_dir / "Library/LaunchAgents" / f"{LABEL}.plist"
    begin = (("launchctl", "enable", f"{domain}/{LABEL}"), ("launchctl", "bootstrap", domain, str(path)))
    end = (("launchctl", "bootout", f"{domain}/{LABEL}"),)
    return _Manager(
        path=path,
        links=(),
        repeatable=False,
        ours=is_our_agent,
        content=launch_agent(home_dir, executable, localai_home),
        start=begin,
        restart=(*end, *begin),
        stop=end,
        after_removal=(),
        running=("launchctl", "print", f"{domain}/{LABEL}"),
        advice="It stops when you log out.",
    )
