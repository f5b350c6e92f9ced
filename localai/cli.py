"""The command line: parse, call, print. Heavy imports stay inside the commands, so that `--help` is instant.

With --json a command prints one JSON object on standard output and nothing else; text for people goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import click

from localai import __version__
from localai.errors import LocalaiError
from localai.sanitize import clean

_COMMANDS = {
    "ask": ("localai.cli_ask", "Ask one question and print the answer."),
    "chat": ("localai.cli_ask", "Open the terminal chat."),
    "serve": ("localai.cli_daemon", "Run the daemon in the foreground."),
    "start": ("localai.cli_daemon", "Start the daemon in the background."),
    "stop": ("localai.cli_daemon", "Stop the daemon after running requests."),
    "status": ("localai.cli_daemon", "Show what the daemon is doing."),
    "logs": ("localai.cli_daemon", "Print the daemon's log."),
    "install": ("localai.cli_daemon", "Start the daemon at login, as a user service."),
    "uninstall": ("localai.cli_daemon", "Remove the user service."),
    "models": ("localai.cli_models", "List, show, pull, import, remove and plan models."),
    "memory": ("localai.cli_memory_use", "Add to the memory, search it, export it, forget."),
    "cache": ("localai.cli_cache", "Look at the KV cache, check it, or empty it."),
    "bench": ("localai.cli_bench", "Measure accuracy per joule of models and engines here."),
    "energy": ("localai.cli_energy", "Show what answers took in joules, cost and CO2."),
    "token": ("localai.cli_token", "Make, list and revoke tokens for programs that come over TCP."),
    "mcp": ("localai.cli_mcp", "Serve memory, models and answers as tools for agents (MCP)."),
    "tools": ("localai.cli_tools", "List tools of MCP servers, and say which may be called."),
    "launch": ("localai.cli_launch", "Show how an editor or agent uses this daemon, or start it so."),
    "doctor": ("localai.cli_doctor", "Examine this device and the installation."),
    "device": ("localai.cli_doctor", "Show what this device is and has."),
    "completion": ("localai.cli_doctor", "Print the shell completion script."),
}


class _Lazy(click.Group):
    """Knows the names and one-line helps of its commands, and imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone, as `| head` does; there is nobody left to complain to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="localai %(version)s")
def cli() -> None:
    """A private AI runtime on your own machine.

    `localai ask "..."` answers one question and starts the daemon by itself; `localai chat` opens the chat.
    """


def main() -> NoReturn:
    """Run the command line; every LocalaiError becomes two lines and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except LocalaiError as error:
        _complain(error)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(error: LocalaiError) -> NoReturn:
    say(f"error: {error.message}")
    if error.hint:
        say(f"\nhint: {error.hint}")
    sys.exit(error.exit_code)


def say(text: str, *, end: str = "\n") -> None:
    """A line for the person, on stderr."""
    click.echo(clean(text), err=True, nl=end == "\n")


def show(value: Any, as_json: bool, render: Callable[[Any], str]) -> None:
    """Print `value` as one JSON object, or as `render` puts it for people, whose terminal obeys nothing in it."""
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else clean(render(value)))


def answer_text(text: str, *, end: str = "\n") -> None:
    """What a model said: as it is into a pipe or a file, harmless on a terminal."""
    click.echo(clean(text) if sys.stdout.isatty() else text, nl=end == "\n")


def progress_line(text: str) -> None:
    """Replace the last progress line, where a person is watching."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[2K{text}", err=True, nl=False)
