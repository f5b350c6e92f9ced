"""`localai launch TOOL`: how an editor or agent is told to use this daemon, checked against it; written, or started."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import asdict
from typing import Any

import click

from localai.cli import say, show
from localai.config import load
from localai.errors import BadRequest, DaemonUnreachable, NotFound
from localai.launch import TOOLS, recipe
from localai.launch_files import LaunchFiles
from localai.lifecycle import client


@click.command()
@click.argument("tool", required=False)
@click.option("-m", "--model", default="default", help="Model that the program is to use.")
@click.option("--run", is_flag=True, help="Start the program so, instead of printing how.")
@click.option("--write", is_flag=True, help="Write it into the program's own settings.")
@click.option("--undo", is_flag=True, help="Take out what --write put in.")
@click.option("--json", "as_json", is_flag=True)
def launch(tool: str | None, model: str, run: bool, write: bool, undo: bool, as_json: bool) -> None:
    """Show how an editor or agent is told to use this daemon, or start it so. Without TOOL, list those known."""
    if run + write + undo > 1:
        raise BadRequest("--run, --write and --undo exclude each other", "give one of them")
    if tool is None:
        show({"tools": list(TOOLS)}, as_json, lambda found: "\n".join(found["tools"]))
        return
    config = load()
    files = LaunchFiles(config.home)
    if undo:
        show({"tool": tool, "undone": str(files.undo(tool))}, as_json, lambda found: f"undone in {found['undone']}")
        return
    if not config.port:
        raise BadRequest("the daemon has no TCP port, and programs need one", "set port in config.toml")
    url = f"http://127.0.0.1:{config.port}"
    served, n_ctx = _served(model)
    made = recipe(tool, url, served, n_ctx)
    if run:
        if not made.command or shutil.which(made.command[0]) is None:
            hint = "without --run, the lines for its settings are printed"
            raise NotFound(f"{tool} cannot be started from here", hint)
        say(f"starting {made.command[0]} with {served} at {url}")
        os.execvpe(made.command[0], made.command, {**os.environ, **made.variables})
    if write:
        written = {"tool": tool, "url": url, "model": served, "written": str(files.write(tool, made))}
        start = f"`{made.start}` uses it; " if made.start else ""
        undone = f"`localai launch {tool} --undo` undoes it"
        show(written | {"start": made.start}, as_json, lambda found: f"written to {found['written']}; {start}{undone}")
        return
    show({"tool": tool, "url": url, "model": served, "n_ctx": n_ctx, **asdict(made)}, as_json, _shown)


def _served(model: str) -> tuple[str, int]:
    """The model's id and context, from the running daemon. Raises where it does not run, or knows no such model."""
    try:
        row = client(load()).get(f"/v1/models/{model}")
    except DaemonUnreachable as error:
        raise DaemonUnreachable(error.message, "`localai start`, then launch again") from error
    return str(row["id"]), int(row["context_length"] or 32_768)


def _shown(found: dict[str, Any]) -> str:
    rows = []
    if found["lines"]:
        rows += [f"# {found['file']}", found["lines"]]
    rows += [f"export {name}={shlex.quote(value)}" for name, value in found["variables"].items()]
    if found["command"]:
        rows.append(shlex.join(found["command"]))
    return "\n".join(rows)
