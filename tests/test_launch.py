"""`localai launch`: a recipe for each program, checked against the running daemon."""

from __future__ import annotations

import json

import pytest

from localai.launch import TOOLS, recipe
from tests.daemon_fixture import Daemon

URL = "http://127.0.0.1:8642"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_recipe_names_the_daemon(tool: str) -> None:
    made = recipe(tool, URL, "some-model", 4096)
    said = " ".join((*made.variables.values(), *made.command, made.lines))
    assert "127.0.0.1:8642" in said
    assert "some-model" in said or tool == "open-webui"
    assert bool(made.file) == bool(made.lines)


@pytest.mark.parametrize("tool", ["opencode", "zed"])
def test_settings_in_json_are_json(tool: str) -> None:
    made = recipe(tool, URL, "some-model", 4096)
    assert json.loads(made.lines or made.variables["OPENCODE_CONFIG_CONTENT"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["aider"], 0, "aider --model openai/smollm2-135m-instruct"),
        (["aider", "-m", "absent"], 1, "absent"),
        (["ed"], 1, "no recipe"),
        (["zed", "--run"], 1, "cannot be started"),
        ([], 0, "claude-code"),
    ],
    ids=["shown", "unknown model", "unknown tool", "no command", "list"],
)
def test_the_command_asks_the_daemon(daemon: Daemon, arguments: list[str], code: int, said: str) -> None:
    done = daemon.cli("launch", *arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
