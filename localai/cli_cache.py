"""`localai cache stats | verify | clear`: the KV cache on the SSD, whether a daemon runs or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from localai.cli import show
from localai.config import load
from localai.errors import ConfigError


@click.group()
def cache() -> None:
    """Look at the KV cache on the SSD, check it, or empty it."""


@contextmanager
def _usable() -> Iterator[None]:
    from backends.kv.index import IndexUnusable

    try:
        yield
    except IndexUnusable as error:
        hint = "check that LOCALAI_HOME can be written to, or remove the folder cache/kv in it"
        raise ConfigError(f"the KV cache cannot be used: {error}", hint) from error


@cache.command()
@click.option("--json", "as_json", is_flag=True)
def stats(as_json: bool) -> None:
    """Show what the cache holds."""
    from backends.kv import upkeep

    config = load()
    with _usable():
        found = upkeep.as_json(upkeep.stats(config.kv_folder))
    show({**found, "cap_bytes": config.kv_ssd, "folder": str(config.kv_folder)}, as_json, _stats_text)


def _stats_text(found: Any) -> str:
    return (
        f"{found['blocks']} blocks of {found['models']} models, {found['tokens']} tokens, {_mib(found['bytes'])} "
        f"of {_mib(found['cap_bytes'])}\n"
        f"{found['written']} written and {found['evicted']} evicted since the cache was begun\n{found['folder']}"
    )


@cache.command()
@click.option("--json", "as_json", is_flag=True)
def verify(as_json: bool) -> None:
    """Read every block, and remove what is damaged or nobody's."""
    from backends.kv import upkeep

    with _usable():
        found = upkeep.as_json(upkeep.sweep(load().kv_folder, read=True))
    show(found, as_json, _verify_text)


def _verify_text(found: Any) -> str:
    return (
        f"{found['blocks']} blocks read: {found['bad']} damaged, {found['missing']} missing, "
        f"{found['orphans']} orphans ({_mib(found['orphan_bytes'])}); what was wrong is removed"
    )


@cache.command()
@click.option("--json", "as_json", is_flag=True)
def clear(as_json: bool) -> None:
    """Remove every block. Conversations stay; their next answer takes longer to begin."""
    from backends.kv import upkeep

    with _usable():
        found = upkeep.clear(load().kv_folder)
    show({"blocks": found.blocks, "bytes": found.bytes}, as_json, _clear_text)


def _clear_text(found: Any) -> str:
    return f"removed {found['blocks']} blocks, {_mib(found['bytes'])}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
