"""`localai launch`: a recipe for each program, checked against the running daemon."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localai.errors import Conflict, NotFound
from localai.launch import TOOLS, Recipe, recipe
from localai.launch_files import LaunchFiles
from tests.daemon_fixture import Daemon

URL = "http://127.0.0.1:8642"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_recipe_names_the_daemon(tool: str) -> None:
    made = recipe(tool, URL, "some-model", 4096)
    said = " ".join((*made.variables.values(), *made.command, made.lines))
    assert "127.0.0.1:8642" in said
    assert "some-model" in said or tool == "open-webui"
    assert bool(made.file) == bool(made.lines)


def test_llm_is_asked_for_no_key() -> None:
    """With the name of a key in its settings, it refuses to start until the user has stored one."""
    assert "api_key_name" not in recipe("llm", URL, "some-model", 4096).block


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


WRITABLE = {
    "claude-code": ('{"theme": "dark", "env": {"A": "1"}}', '{\n  // mine\n  "theme": "dark"\n}'),
    "opencode": ('{"model": "other/x", "provider": {"other": {}}}', "[]"),
    "zed": ('{"language_models": {"openai": {}}}', '{"a": 1,}'),
    "codex": ('approval_policy = "never"\n', 'model = "gpt"\n'),
    "aider": ("dark-mode: true\n", "model: gpt\n"),
    "llm": ("- model_id: other\n  model_name: x", "- model_id: localai\n"),
    "continue": ("name: mine\nversion: 1.0.0", "models:\n  - name: x\n"),
    "llama.vim": ("set number\r\nset ruler\r\n", "let g:llama_config = {}\n"),
}
"""Settings that somebody has, and settings that cannot be added to."""


def placed(tool: str, folder: Path) -> tuple[Recipe, Path]:
    """The recipe with its file below `folder`, in a folder that is not there yet."""
    made = recipe(tool, URL, "some-model", 4096)
    path = folder / "settings" / Path(made.path).name
    return replace(made, path=str(path)), path


def test_every_tool_with_a_path_is_tried() -> None:
    assert {tool for tool in TOOLS if recipe(tool, URL, "m", 1).path} == set(WRITABLE)


@pytest.mark.parametrize("tool", WRITABLE)
def test_what_is_written_is_undone_byte_for_byte(tool: str, tmp_path: Path) -> None:
    made, path = placed(tool, tmp_path)
    files = LaunchFiles(tmp_path)
    files.write(tool, made)
    assert "127.0.0.1:8642" in path.read_text()
    files.undo(tool)
    assert not path.exists()
    path.write_bytes(WRITABLE[tool][0].encode())
    path.chmod(0o640)
    files.write(tool, made)
    once = path.read_bytes()
    files.write(tool, made)
    assert path.read_bytes() == once
    assert path.stat().st_mode & 0o777 == 0o640
    files.undo(tool)
    assert path.read_bytes() == WRITABLE[tool][0].encode()
    with pytest.raises(NotFound):
        files.undo(tool)


@pytest.mark.parametrize("tool", WRITABLE)
def test_what_cannot_be_added_to_is_left_alone(tool: str, tmp_path: Path) -> None:
    made, path = placed(tool, tmp_path)
    path.parent.mkdir()
    path.write_text(WRITABLE[tool][1])
    with pytest.raises(Conflict):
        LaunchFiles(tmp_path).write(tool, made)
    assert path.read_text() == WRITABLE[tool][1]


def test_what_somebody_added_since_stays(tmp_path: Path) -> None:
    files = LaunchFiles(tmp_path)
    made, path = placed("codex", tmp_path)
    files.write("codex", made)
    assert tomllib.loads(path.read_text())["model"] == "some-model"
    path.write_text(f"a = 1\n{path.read_text()}[mine]\nb = 2\n")
    files.undo("codex")
    assert tomllib.loads(path.read_text()) == {"a": 1, "mine": {"b": 2}}


@pytest.mark.parametrize(
    ("before", "since", "left"),
    [
        (None, {"mine": 1}, {"mine": 1}),
        ({"theme": "x"}, {"theme": "y"}, {"theme": "y"}),
        ({"env": {"A": "1", "ANTHROPIC_MODEL": "old"}}, {"mine": 1}, "before and mine"),
        (None, {"env": {"ANTHROPIC_MODEL": "own"}}, {"env": {"ANTHROPIC_MODEL": "own"}}),
        (None, {"env": 5}, {"env": 5}),
    ],
    ids=["added", "changed", "restored", "ours changed", "another type"],
)
def test_programs_may_write_into_their_settings(tmp_path: Path, before: Any, since: Any, left: Any) -> None:
    files = LaunchFiles(tmp_path)
    made, path = placed("claude-code", tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(before) if before else "")
    files.write("claude-code", made)
    now = json.loads(path.read_text())
    merged = since if not isinstance(since.get("env"), dict) else {"env": now["env"] | since["env"]}
    path.write_text(json.dumps(now | merged))
    files.write("claude-code", replace(made, merge={"env": {"ANTHROPIC_MODEL": "another"}}))
    files.undo("claude-code")
    assert json.loads(path.read_text()) == (left if isinstance(left, dict) else {**before, **since})


def test_what_is_no_json_any_more_is_left_alone(tmp_path: Path) -> None:
    files = LaunchFiles(tmp_path)
    made, path = placed("zed", tmp_path)
    files.write("zed", made)
    path.write_text(path.read_text() + "// mine\n")
    with pytest.raises(Conflict):
        files.undo("zed")
    assert path.read_text().endswith("// mine\n")


def test_a_link_to_the_settings_stays_a_link(tmp_path: Path) -> None:
    made, path = placed("aider", tmp_path)
    kept = tmp_path / "dotfiles.yml"
    kept.write_text("dark-mode: true\n")
    path.parent.mkdir()
    path.symlink_to(kept)
    files = LaunchFiles(tmp_path)
    files.write("aider", made)
    assert path.is_symlink()
    assert "openai-api-base" in kept.read_text()
    files.undo("aider")
    assert kept.read_text() == "dark-mode: true\n"


def test_the_command_writes_and_undoes(daemon: Daemon) -> None:
    settings = Path(daemon.home) / "person" / ".codex" / "localai.config.toml"
    kept, daemon.env["HOME"] = daemon.env.get("HOME", ""), str(Path(daemon.home) / "person")
    try:
        said = daemon.cli("launch", "codex", "--write")
        assert (said.returncode, "codex --profile localai" in said.stdout) == (0, True)
        assert "smollm2-135m-instruct" in settings.read_text()
        assert daemon.cli("launch", "codex", "--undo").returncode == 0
        assert not settings.exists()
        assert daemon.cli("launch", "gptel", "--write").returncode == 1
        assert daemon.cli("launch", "codex", "--write", "--undo").returncode == 2
    finally:
        daemon.env["HOME"] = kept
