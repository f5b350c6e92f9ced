"""The texts of the service files: an interpreter and a home enter, bytes for systemd or launchd leave."""

from __future__ import annotations

import plistlib
from pathlib import Path
from xml.parsers.expat import ExpatError

LABEL = "app.localai.daemon"
UNIT = "localai.service"

_MARK = "# Written by `localai install`, which replaces it; settings of yours belong in localai.service.d/*.conf."
_SERVE = ("-P", "-m", "localai", "serve")  # -P: a folder named localai in the home must not shadow the package
_STOP_SECONDS = 60
_UNIT = """\
{mark}
[Unit]
Description=localai, language models on this device
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
ExecStart={command}
{environment}Restart=on-failure
RestartSec=2
# A wrong setting (exit code 2) does not mend itself.
RestartPreventExitStatus=2
# Only the daemon is asked to stop, for it ends its engines itself once their requests are answered.
KillMode=mixed
TimeoutStopSec={stop_seconds}
# An engine that the kernel kills for memory costs its requests, not the daemon.
OOMPolicy=continue
LimitMEMLOCK=infinity
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def systemd_unit(executable: str, localai_home: Path | None) -> bytes:
    """A user unit, see systemd.service(5). Memory stays executable where asked: GPU drivers compile kernels."""
    command = " ".join([_quoted(executable), *_SERVE])
    setting = f"Environment={_quoted(f'LOCALAI_HOME={localai_home}')}\n" if localai_home else ""
    text = _UNIT.format(mark=_MARK, command=command, environment=setting, stop_seconds=_STOP_SECONDS)
    return text.encode()


def is_our_unit(content: bytes) -> bool:
    return content.startswith(_MARK.encode())


def launch_agent(home_dir: Path, executable: str, localai_home: Path | None) -> bytes:
    """An agent, see launchd.plist(5); `Interactive` keeps macOS from throttling the engine's cores."""
    log = str(home_dir / "Library/Logs/localai.log")
    facts: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": [executable, *_SERVE],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": _STOP_SECONDS,
        "ProcessType": "Interactive",
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if localai_home:
        facts["EnvironmentVariables"] = {"LOCALAI_HOME": str(localai_home)}
    return plistlib.dumps(facts)


def is_our_agent(content: bytes) -> bool:
    try:
        facts = plistlib.loads(content)
    except (plistlib.InvalidFileException, ExpatError, ValueError):
        return False
    arguments = facts.get("ProgramArguments") if isinstance(facts, dict) else None
    return isinstance(arguments, list) and tuple(arguments[1:]) == _SERVE


def _quoted(word: str) -> str:
    """One word of a unit file: systemd expands `%`, and a variable only in arguments after the program's path."""
    escaped = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
