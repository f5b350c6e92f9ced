"""`localai memory export` and `import`: the whole memory as one file, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import click

from localai.cli import progress_line, say, show
from localai.cli_memory import AT_LENGTH, ROUTE, daemon_and_namespace
from localai.errors import BadRequest, from_memory

_BATCH = 200
_STANDARD = Path("-")


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--format", "form", type=click.Choice(["jsonl", "markdown"]), default=None, help="Default: by the name.")
@click.option("-n", "--namespace", default=None, help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(path: Path, form: str | None, namespace: str | None, as_json: bool) -> None:
    """Write all memories into the file PATH, or - for standard output, for `localai memory import`."""
    from localai.atomic import replace_file
    from memory_store.export import Record, record_of, to_jsonl, to_markdown

    if path == _STANDARD and as_json:
        raise BadRequest("standard output takes the memories or a report, not both", "leave --json out")
    if not path.absolute().parent.is_dir():
        raise BadRequest(f"there is no folder {path.parent}", "make it first, or check the path")
    daemon, _ = daemon_and_namespace()
    form = form or ("markdown" if path.suffix.lower() in (".md", ".markdown") else "jsonl")
    count = 0

    def found() -> Iterator[Record]:
        nonlocal count
        after: int | None = 0
        while after is not None:
            chosen = {"namespace": namespace} if namespace else {}
            page = daemon.get(f"{ROUTE}/export?{urlencode({'after': after, 'limit': _BATCH, **chosen})}")
            for value in page["records"]:
                count += 1
                yield record_of(value, f"memory {count}")
            progress_line(f"{count} memories")
            after = page["last"]

    lines = (to_markdown if form == "markdown" else to_jsonl)(found())
    if path == _STANDARD:
        for line in lines:
            click.echo(line.encode(), nl=False)
        progress_line("")
        say(f"{count} memories")
        return
    replace_file(path, (line.encode() for line in lines))
    progress_line("")
    result = {"path": str(path), "format": form, "memories": count}
    show(result, as_json, lambda r: f"{r['memories']} memories in {r['path']}")


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(path: Path, as_json: bool) -> None:
    """Bring back what `localai memory export` wrote to PATH, or - for standard input; what is known already stays as it
    is.
    """
    import msgspec

    from memory_store.errors import MemoryStoreError
    from memory_store.export import from_jsonl, from_markdown

    text = _read(path)
    markdown = path.suffix.lower() in (".md", ".markdown") or text.startswith("#")
    try:
        found = list(from_markdown(text) if markdown else from_jsonl(text.split("\n")))
    except MemoryStoreError as error:
        raise from_memory(error) from error
    daemon, _ = daemon_and_namespace()
    created = 0
    for start in range(0, len(found), _BATCH):
        part = [msgspec.to_builtins(record) for record in found[start : start + _BATCH]]
        body = {"records": part, "first": start + 1}
        created += daemon.post(f"{ROUTE}/import", body, timeout=AT_LENGTH)["created"]
        progress_line(f"{min(start + _BATCH, len(found))} of {len(found)} memories")
    progress_line("")
    result = {"read": len(found), "created": created}
    show(result, as_json, lambda r: f"{r['created']} of {r['read']} memories were new")


def _read(path: Path) -> str:
    try:
        if path == _STANDARD:
            return sys.stdin.buffer.read().decode()
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        named = "standard input" if path == _STANDARD else path
        raise BadRequest(f"{named} is not text in UTF-8", "give a file that `localai memory export` wrote") from error
