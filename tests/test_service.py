"""Service files and the commands around them; the service managers are stand-in programs on PATH that keep a log."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localai.errors import BadRequest, Conflict, OutOfResources
from localai.service import install, run, uninstall
from localai.service_files import launch_agent, systemd_unit

UNIT = ".config/systemd/user/localai.service"
AGENT = "Library/LaunchAgents/app.localai.daemon.plist"
SYSTEMCTL = 'case "$*" in *is-active*) [ -e "$STATE" ];; *enable*--now*|*restart*) touch "$STATE";; esac'
LAUNCHCTL = 'case "$1" in print) [ -e "$STATE" ];; bootstrap) touch "$STATE";; bootout) rm "$STATE";; esac'


class Manager:
    """A stand-in `systemctl` and `launchctl` first on PATH; `calls` is what they were asked since the last look."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = folder / "log"
        programs = folder / "bin"
        programs.mkdir()
        for name, body in (("systemctl", SYSTEMCTL), ("launchctl", LAUNCHCTL)):
            script = f'#!/bin/sh\nSTATE="{folder}/running"\necho "$*" >> "{self.log}"\n{body}\n'
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.removeprefix("--user ").replace(f"gui/{os.getuid()}", "gui") for line in lines]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    return Manager(tmp_path, monkeypatch)


def test_systemd_install_change_and_uninstall(tmp_path: Path, manager: Manager) -> None:
    done = install("linux", tmp_path, sys.executable, None)
    assert (done.path, done.changed, done.active) == (tmp_path / UNIT, True, True)
    assert manager.calls() == ["is-active --quiet localai.service", "daemon-reload", "enable --now localai.service"]
    assert "enable-linger" in done.message

    assert install("linux", tmp_path, sys.executable, None).changed is False
    assert not any("restart" in call for call in manager.calls())

    assert install("linux", tmp_path, sys.executable, tmp_path / "my home").changed is True
    assert manager.calls()[-1] == "restart localai.service"
    assert f'Environment="LOCALAI_HOME={tmp_path}/my home"' in done.path.read_text()

    gone = uninstall("linux", tmp_path)
    assert (gone.changed, gone.active, done.path.exists()) == (True, True, False)
    assert manager.calls() == ["disable --now localai.service", "daemon-reload"]
    assert uninstall("linux", tmp_path).changed is False
    assert manager.calls() == []


def test_launchd_install_change_and_uninstall(tmp_path: Path, manager: Manager) -> None:
    label, path = "app.localai.daemon", str(tmp_path / AGENT)
    begin = [f"enable gui/{label}", f"bootstrap gui {path}"]
    assert install("darwin", tmp_path, sys.executable, None).active
    assert manager.calls() == [f"print gui/{label}", *begin]
    assert not install("darwin", tmp_path, sys.executable, None).changed
    assert manager.calls() == [f"print gui/{label}"]
    assert install("darwin", tmp_path, sys.executable, tmp_path).changed
    assert manager.calls() == [f"print gui/{label}", f"bootout gui/{label}", *begin]
    assert uninstall("darwin", tmp_path).active
    assert manager.calls() == [f"print gui/{label}", f"bootout gui/{label}"]
    assert not (tmp_path / AGENT).exists()


def test_launch_agent_round_trip(tmp_path: Path) -> None:
    facts = plistlib.loads(launch_agent(tmp_path, "/opt/py thon", tmp_path / "state"))
    assert facts["Label"] == "app.localai.daemon"
    assert facts["ProgramArguments"] == ["/opt/py thon", "-P", "-m", "localai", "serve"]
    assert facts["EnvironmentVariables"] == {"LOCALAI_HOME": str(tmp_path / "state")}
    assert facts["KeepAlive"] == {"SuccessfulExit": False}
    assert facts["RunAtLoad"] is True


@pytest.mark.parametrize(
    ("path", "written"),
    [
        pytest.param("/opt/venv/bin/python", '"/opt/venv/bin/python"', id="plain"),
        pytest.param("/home/a b/python", '"/home/a b/python"', id="space"),
        pytest.param('/x/100%/$HOME/"q"\\p', '"/x/100%%/$HOME/\\"q\\"\\\\p"', id="specifier, dollar, quotes"),
    ],
)
def test_paths_survive_systemds_expansion(path: str, written: str) -> None:
    assert f"\nExecStart={written} -P -m localai serve\n" in systemd_unit(path, None).decode()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("folder", ["plain", "with space 100% $HOME"])
def test_systemd_accepts_the_unit(tmp_path: Path, folder: str) -> None:
    program = tmp_path / folder / "python3"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    unit = tmp_path / "localai.service"
    unit.write_bytes(systemd_unit(str(program), tmp_path / folder))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = [line for line in done.stderr.splitlines() if "localai" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(
    ("platform", "name", "foreign"),
    [
        pytest.param("linux", UNIT, b"[Service]\nExecStart=/usr/bin/other\n", id="systemd"),
        pytest.param("darwin", AGENT, plistlib.dumps({"ProgramArguments": ["/bin/other"]}), id="launchd"),
        pytest.param("darwin", AGENT, b"<plist>", id="launchd, damaged"),
    ],
)
def test_a_foreign_file_is_left_alone_without_force(
    tmp_path: Path, manager: Manager, platform: str, name: str, foreign: bytes
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(foreign)
    with pytest.raises(Conflict, match="not written by localai"):
        install(platform, tmp_path, sys.executable, None)
    with pytest.raises(Conflict, match="not written by localai"):
        uninstall(platform, tmp_path)
    assert path.read_bytes() == foreign
    assert manager.calls() == []
    assert install(platform, tmp_path, sys.executable, None, force=True).changed
    assert path.read_bytes() != foreign


def test_without_systemctl_the_file_is_written_and_the_rest_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = install("linux", tmp_path, sys.executable, None)
    assert (done.changed, done.active, done.path.exists()) == (True, False, True)
    assert "systemctl is not installed" in done.message
    assert "systemctl --user enable --now localai.service" in done.message


def test_a_refusing_manager_is_quoted_and_leaves_no_file_behind(tmp_path: Path, manager: Manager) -> None:
    install("linux", tmp_path, sys.executable, None)
    link = tmp_path / ".config/systemd/user/default.target.wants/localai.service"
    link.parent.mkdir()
    link.symlink_to(tmp_path / UNIT)
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    gone = uninstall("linux", tmp_path)
    assert gone.active is False
    assert "Failed to connect to bus" in gone.message
    assert not (tmp_path / UNIT).exists()
    assert not link.is_symlink()


def test_wrong_platform_and_unwritable_home_are_clear_errors(tmp_path: Path, manager: Manager) -> None:
    with pytest.raises(BadRequest, match="win32"):
        install("win32", tmp_path, sys.executable, None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutOfResources, match=r"localai\.service"):
        install("linux", tmp_path / "file", sys.executable, None)
    assert manager.calls() == []


def test_the_real_runner_tells_code_and_words() -> None:
    assert run([sys.executable, "-c", "import sys; sys.exit('no')"]).output == "no"
    assert run(["no-such-program-here"]).code == 127
