"""`localai memory doctor`: is the memory whole, and what can be done where it is not."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from localai.cli import show
from localai.cli_memory import AT_LENGTH, ROUTE, daemon_and_namespace, noting
from localai.config import load
from localai.errors import BadRequest, from_memory
from localai.lifecycle import stop


@click.command()
@click.option("--repair", is_flag=True, help="Mend what is found.")
@click.option(
    "--salvage", is_flag=True, help="Stop the daemon, and save what a damaged file still says into a new one."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(repair: bool, salvage: bool, as_json: bool) -> None:
    """Is every memory whole and findable?"""
    if salvage and repair:
        raise BadRequest("--repair and --salvage at once", "--repair is for a file that can be read")
    if salvage:
        _salvage(as_json)
        return
    daemon, _ = daemon_and_namespace()
    found = daemon.post(f"{ROUTE}/doctor?repair={str(repair).lower()}", {}, timeout=AT_LENGTH)
    show(found, as_json, noting(_doctor_text))
    if not found["healthy"]:
        sys.exit(1)


def _salvage(as_json: bool) -> None:
    from localai.open_memory import salvaged
    from memory_store.errors import MemoryStoreError

    config = load()
    stop(config)
    try:
        found = salvaged(config)
    except MemoryStoreError as error:
        raise from_memory(error) from error
    show(found, as_json, _salvaged_text)


def _salvaged_text(found: Any) -> str:
    lost = f"; {found['lost']} are lost" if found["lost"] else ""
    nameless = f"; of {found['nameless']} it is not known who said them, or where" if found["nameless"] else ""
    return (
        f"{found['memories']} memories saved{lost}{nameless}\nthe damaged file is {found['damaged']}: remove it by hand"
    )


_UNMENDED = (
    "the file itself is damaged: `localai memory doctor --repair` mends its indexes alone; where this stays, "
    "`localai memory doctor --salvage` puts what can be read into a new file"
)


def _doctor_text(found: Any) -> str:
    doubts = "".join(f"\n{doubt['folder']}: {doubt['told']}" for doubt in found["doubts"])
    if found["healthy"]:
        silent = len(found["wordless"])
        but = (
            f", but for {silent} without anything to search for, which only `localai memory list` shows"
            if silent
            else ""
        )
        return f"{found['memories']} memories, all whole and findable{but}{doubts}"
    wrong = {
        name: value
        for name, value in found.items()
        if value and name not in ("memories", "healthy", "fallback", "wordless", "doubts")
    }
    mend = _UNMENDED if found["file"] else "run `localai memory doctor --repair`"
    return f"something is wrong: {json.dumps(wrong)}\n{mend}{doubts}"
