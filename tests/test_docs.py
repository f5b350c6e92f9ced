"""The README tells the truth: its commands run, its files exist, its tables are what the code says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from localai.config import Config
from tests.daemon_fixture import free_port
from tests.settings_table import settings_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def sessions() -> list[tuple[str, str]]:
    """Commands of the console blocks, each with the output shown under it."""
    found: list[tuple[str, str]] = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    home = tempfile.mkdtemp(prefix="la-", dir="/tmp")
    folder = str(Path(sys.executable).parent)
    changed = {
        "LOCALAI_HOME": home,
        "LOCALAI_PORT": str(free_port()),
        "LOCALAI_CALIBRATE": "0",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    yield os.environ | changed
    subprocess.run(["localai", "stop"], env=os.environ | changed, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def test_console_blocks_do_what_they_show(environment: dict[str, str]) -> None:
    for command, shown in sessions():
        command = command.replace("8642", environment["LOCALAI_PORT"])
        done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        # Column widths follow what else is on the machine, so any white space stands for any other.
        parts = (r"\s+".join(map(re.escape, part.split())) for part in shown.split("..."))
        assert re.search(".*".join(parts), done.stdout, re.DOTALL), (command, done.stdout)


def test_ci_runs_the_readmes_test_command() -> None:
    command = blocks("sh")[1].strip()
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == command


def test_follow_one_request_names_files_that_exist() -> None:
    named = re.findall(r"^\| `([^`]+\.py)` \|", README, re.MULTILINE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_settings_table_is_the_code_s() -> None:
    shown = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert shown == settings_table(), "run `python -m tests.settings_table`"


def test_every_setting_is_described() -> None:
    described = settings_table()
    assert [f.name for f in fields(Config) if f"`{f.name}`" not in described and f.name != "home"] == []


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in text
