"""`localai tools`: the tools of declared MCP servers, and which of them a chat may call."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from localai.cli import show
from localai.config import load
from localai.lifecycle import client
from localai.tools.spec import Consent

_ASKING_S = 90.0


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def tools(ctx: click.Context, as_json: bool) -> None:
    """List tools of the MCP servers in tools.toml, and say which may be called.

    A tool is asked about before each call until `allow` or `deny` settles it.
    """
    if ctx.invoked_subcommand is None:
        show(client(load()).get("/localai/tools", timeout=_ASKING_S), as_json, _listing)


@tools.command("allow")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def allow(name: str, as_json: bool) -> None:
    """Let the tool NAME be called without asking, until it describes itself otherwise."""
    _say(name, "always", as_json)


@tools.command("deny")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def deny(name: str, as_json: bool) -> None:
    """Never let the tool NAME be called; models are not told of it."""
    _say(name, "never", as_json)


@tools.command("ask")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def ask(name: str, as_json: bool) -> None:
    """Ask before each call of the tool NAME."""
    _say(name, "ask", as_json)


def _say(name: str, consent: Consent, as_json: bool) -> None:
    found = client(load()).post(f"/localai/tools/{quote(name, safe='')}/consent", {"consent": consent})
    show(found, as_json, lambda value: f"{value['name']}: {value['consent']}")


def _listing(found: dict[str, Any]) -> str:
    rows = []
    for server in found["servers"]:
        rows.append(f"{server['name']} ({server['kind']})" + (f": {server['problem']}" if server["problem"] else ""))
        rows += [f"  {one['consent']:7} {one['name']:32} {one['description'][:60]}" for one in server["tools"]]
    return "\n".join(rows) or "no servers; declare them in tools.toml in the data folder"
