"""`tools.toml` of the home: which MCP servers the user wants, one table each.

    [files]
    command = ["uvx", "mcp-server-filesystem", "/home/me/notes"]

    [tracker]
    url = "http://127.0.0.1:9000/mcp"
    token_env = "TRACKER_TOKEN"

A file enters, checked specs leave; ConfigError names the entry. Starts nothing.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from localai.errors import ConfigError

Consent = Literal["ask", "always", "never"]
"""Whether a tool may be called: after asking each time, without asking, or not at all."""

ServerName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server: a `command` that speaks over standard input and output, or the `url` of a streamable HTTP one.

    `env` is added to the little that a child gets of the environment. The bearer token for `url` is in the daemon's
    environment variable `token_env`. `consent` holds for its tools that nothing else was said about. `timeout` is
    seconds for its start, and for each answer.
    """

    name: ServerName
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = ""
    url: str = ""
    token_env: str = ""
    consent: Consent = "ask"
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0


def read_servers(path: Path) -> tuple[ServerSpec, ...]:
    """The servers of the file at `path`; none where there is no file. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", f"mend or remove {path.name}") from error
    return tuple(_server(f"{path.name}: server {name!r}", name, table) for name, table in tables.items())


def _server(label: str, name: str, table: object) -> ServerSpec:
    if not isinstance(table, dict):
        raise ConfigError(f"{label} is no table", "write [NAME] and under it command = [...] or url = ...")
    try:
        spec = msgspec.convert({**table, "name": name}, ServerSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{label}: {str(error)[:1].lower()}{str(error)[1:]}", "correct this entry") from error
    if bool(spec.command) == bool(spec.url):
        raise ConfigError(f"{label} needs either a command or a url", 'as command = ["program", "argument"]')
    if spec.url and urlsplit(spec.url).scheme not in ("http", "https"):
        raise ConfigError(f"{label} has a url that is no http address", 'as url = "http://127.0.0.1:9000/mcp"')
    return spec
