"""`localai mcp`: the tools of this daemon for agents, over standard input and output or over HTTP on loopback."""

from __future__ import annotations

import click

from localai.cli import say
from localai.config import load
from localai.errors import BadRequest
from localai.lifecycle import ensure_running


@click.command()
@click.option("--http", "port", type=click.IntRange(1, 65535), default=None, help="Serve http://127.0.0.1:PORT/mcp.")
@click.option("--as", "name", default="mcp", show_default=True, help="The agent that memories are noted for.")
@click.option("--namespace", default=None, help="Part of the memory to use where a call names none.")
@click.option(
    "--token", envvar="LOCALAI_TOKEN", default=None, help="Limits what the agent may. Default: $LOCALAI_TOKEN."
)
def mcp(port: int | None, name: str, namespace: str | None, token: str | None) -> None:
    """Serve memory, models, answers and energy as MCP tools.

    An agent starts this command and talks to it over standard input and output. With --http every call must carry a
    token (`localai token add`).
    """
    try:
        from localai.mcp_server import Door, server
    except ModuleNotFoundError as error:
        hint = "pip install 'localai-daemon[mcp]'"
        raise BadRequest("the Model Context Protocol needs the package mcp, which is not installed", hint) from error
    config = load()
    if ensure_running(config):
        say(f"started the daemon ({config.socket})")
    made = server(Door(config, name, namespace, token, tokens=port is not None))
    if port is None:
        made.run("stdio")
    else:
        say(f"serving http://127.0.0.1:{port}/mcp")
        made.run("streamable-http", host="127.0.0.1", port=port, stateless_http=True, json_response=True)
