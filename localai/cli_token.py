"""`localai token`: make, list and revoke tokens. The secret is printed once, alone on standard output."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from localai.cli import say, show
from localai.cli_numbers import Finite
from localai.config import load
from localai.lifecycle import client
from localai.tokens import SCOPES


@click.group()
def token() -> None:
    """Make, list and revoke tokens for programs that come over TCP.

    Without one, a program on this machine may do inference only.
    """


@token.command("add")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May be repeated. Default: infer.")
@click.option(
    "--namespace", "namespaces", multiple=True, help="Part of the memory it may use; repeatable. Default: all."
)
@click.option("--requests-per-minute", type=click.IntRange(0), default=0, help="0 for no limit.")
@click.option("--joules-per-day", type=Finite(0), default=0.0, help="0 for no limit.")
@click.option("--json", "as_json", is_flag=True)
def add(name: str, scopes: tuple[str, ...], as_json: bool, **limits: Any) -> None:
    """Make the token NAME and print its secret, which is not kept."""
    made = client(load()).post("/localai/tokens", {"name": name, "scopes": scopes or ("infer",), **limits})
    if not as_json:
        say(f"{_line(made)}\nSend it as `Authorization: Bearer ...`. It is not shown again:")
    show(made, as_json, lambda found: str(found["secret"]))


@token.command("list")
@click.option("--json", "as_json", is_flag=True)
def listing(as_json: bool) -> None:
    """List the tokens and their rights."""
    found = client(load()).get("/localai/tokens")
    show(found, as_json, lambda value: "\n".join(map(_line, value["tokens"])) or "no tokens yet")


@token.command("rm")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def remove(name: str, as_json: bool) -> None:
    """Revoke the token NAME: its secret opens nothing from now on."""
    found = client(load()).delete(f"/localai/tokens/{quote(name, safe='')}")
    show(found, as_json, lambda value: f"revoked {value['removed']['name']}")


def _line(made: dict[str, Any]) -> str:
    rights = [*made["scopes"]]
    if made["namespaces"]:
        rights.append(f"namespaces {', '.join(made['namespaces'])}")
    if made["requests_per_minute"]:
        rights.append(f"{made['requests_per_minute']} requests a minute")
    if made["joules_per_day"]:
        rights.append(f"{made['joules_per_day']:g} J a day")
    day = time.strftime("%Y-%m-%d", time.localtime(made["created"]))
    return f"{made['name']:20} {day}  {'; '.join(rights)}"
