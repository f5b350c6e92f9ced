"""`localai memory ...`: all through the daemon, which owns the file; it is started where none runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click

from localai.cli import progress_line, say, show
from localai.cli_moments import moment, shown_moment
from localai.client import Client
from localai.config import load
from localai.errors import BadRequest, from_memory
from localai.lifecycle import client, ensure_running

ROUTE = "/localai/memory"
_FILES = 32
AT_LENGTH = 600.0
_UNFINISHED = (
    "traces may be left in files: `localai memory doctor --repair` finishes it, "
    "where the disk has room and no other program reads"
)
_PREVIEWED = 10
_KEPT_COPY = "memory.db.damaged"
_UNCOUNTED = "not counted: it is your own word, or its source has had its share of praise today"
_KINDS = ("person", "agent", "file", "tool", "web")


def daemon_and_namespace() -> tuple[Client, str]:
    """A way to the daemon, and the namespace that is set."""
    config = load()
    ensure_running(config)
    return client(config), config.memory or "default"


def path_of(memory_id: str) -> str:
    """Raises BadRequest."""
    if not memory_id.strip():
        raise BadRequest("the id is empty", "`localai memory list` shows the ids; their first six letters do")
    return f"{ROUTE}/{quote(memory_id, safe='')}"


def _source(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    kind, colon, name = text.partition(":")
    if not colon or kind not in _KINDS:
        raise BadRequest(f"{text!r} is no source", "write it as person:NAME, agent:, file:, tool: or web:NAME")
    return {"kind": kind, "name": name}


@click.group()
def memory() -> None:
    """What is remembered: add, search, list, show, pin, judge, export, import, forget."""


@memory.command()
@click.argument("text", required=False)
@click.option("--file", "paths", multiple=True, type=click.Path(path_type=Path), help="A document or folder instead.")
@click.option("--source", default=None, help="Who says so, as KIND:NAME; default: you.")
@click.option("-n", "--namespace", default=None, help="Where to keep it.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by; as often as you like.")
@click.option("--time", "time_", default=None, callback=moment, help="When it was said.")
@click.option("--valid-from", default=None, callback=moment, help="From when on it is true.")
@click.option("--valid-to", default=None, callback=moment, help="Until when it is true.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def add(
    text: str | None,
    paths: tuple[Path, ...],
    source: str | None,
    namespace: str | None,
    tags: tuple[str, ...],
    time_: float | None,
    valid_from: float | None,
    valid_to: float | None,
    as_json: bool,
) -> None:
    """Remember TEXT, what is piped in, or documents."""
    if paths:
        if text is not None:
            raise BadRequest("a text and files at once", "add one after the other")
        _add_files(paths, namespace, as_json)
        return
    text = _storable(_piped() if text is None else text)
    daemon, usual = daemon_and_namespace()
    body = {"text": text, "namespace": namespace or usual, "source": _source(source), "tags": tags, "time": time_}
    body |= {"valid_from": valid_from, "valid_to": valid_to}
    added = daemon.post(ROUTE, {name: value for name, value in body.items() if value is not None})
    show(added, as_json, noting(_added_text))


def noting(text: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same, with a line where the memory's embedding model fails."""

    def noted(found: Any) -> str:
        return text(found) + (f"\n(found by {found['fallback']})" if found["fallback"] else "")

    return noted


def _piped() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadRequest("there is nothing to remember", 'localai memory add "The spare key is with Ana"')
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise BadRequest(
            "what is piped in is not text in UTF-8", "convert it first: iconv -f latin1 -t utf-8"
        ) from error


def _storable(text: str) -> str:
    """Said here, before it is packed for the daemon. Raises LocalaiError."""
    from memory_store.errors import MemoryStoreError
    from memory_store.intake import check_text

    try:
        check_text(text)
    except MemoryStoreError as error:
        raise from_memory(error) from error
    return text


def _add_files(paths: tuple[Path, ...], namespace: str | None, as_json: bool) -> None:
    from memory_store.errors import MemoryStoreError
    from memory_store.folder import listing

    found: list[Path] = []
    try:
        for path in map(Path.absolute, paths):
            within = listing(path) if path.is_dir() else None
            found += [path] if within is None else within.files
            for place, why in ({} if within is None else within.unread).items():
                say(f"{place}: it cannot be looked into: {why}")
    except MemoryStoreError as error:
        raise from_memory(error) from error
    daemon, usual = daemon_and_namespace()
    done: list[Any] = []
    for path in [path for path in found if not str(path).isprintable()]:
        found.remove(path)
        say(f"{str(path)!a}: the file's name has characters that cannot be shown (rename it)")
    for start in range(0, len(found), _FILES):
        body = {"paths": [str(path) for path in found[start : start + _FILES]], "namespace": namespace or usual}
        done += daemon.post(f"{ROUTE}/files", body, timeout=AT_LENGTH)["files"]
        progress_line(f"{len(done)} of {len(found)} files")
    progress_line("")
    for each in done:
        if each["problem"]:
            say(f"{each['path']}: {each['problem']} ({each['hint']})")
    names = ("added", "duplicates", "quarantined", "removed", "unchanged")
    result = {**{name: sum(each[name] for each in done) for name in names}, "files": done}
    show(result, as_json, _files_text)
    if done and all(each["problem"] for each in done):
        sys.exit(1)


def _files_text(result: Any) -> str:
    text = f"{result['added']} memories from {len(result['files'])} files, {result['duplicates']} known already"
    if result["unchanged"]:
        text += f"; {result['unchanged']} files unchanged since they were read"
    if result["quarantined"]:
        text += f"; {result['quarantined']} set aside, for they give orders to a model: `localai memory list "
        text += "--state quarantined` shows them, `localai memory judge ID confirmed` lets one in"
    return text


@memory.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("-n", "--namespace", default=None, help="Where to keep what it says.")
@click.option("--stop", is_flag=True, help="Follow FOLDER no more; what it said stays remembered.")
@click.option("--gone", is_flag=True, help="The files that FOLDER lacks are gone: forget what they said.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def watch(folder: Path | None, namespace: str | None, stop: bool, gone: bool, as_json: bool) -> None:
    """Follow FOLDER: its documents are remembered, and forgotten when they go. Without FOLDER, list."""
    if stop and gone:
        raise BadRequest("--stop and --gone at once", "first the one, then the other")
    daemon, usual = daemon_and_namespace()
    if folder is None:
        found = daemon.get(f"{ROUTE}/watch")
    else:
        body = {"folder": str(folder.resolve()), "namespace": namespace or usual}
        found = daemon.post(f"{ROUTE}/{'unwatch' if stop else 'watch/gone' if gone else 'watch'}", body)
    show(found, as_json, lambda f: "\n".join(map(_watched_text, f["watched"])) or "no folder is watched")


def _watched_text(found: Any) -> str:
    problem = f"\n  {found['problem']}" if found["problem"] else ""
    aside = (
        f", {found['set_aside']} set aside (`localai memory list --state quarantined`)" if found["set_aside"] else ""
    )
    return (
        f"{found['folder']} ({found['namespace']}): {found['added']} added, {found['removed']} removed{aside}{problem}"
    )


def _added_text(added: Any) -> str:
    known = "" if added["created"] else " (known already)"
    instead = f" in place of {', '.join(added['replaced'])}" if added["replaced"] else ""
    return f"{added['id']}{known}{'' if added['state'] == 'kept' else ' ' + added['state']}{instead}"


@memory.command()
@click.argument("query")
@click.option("-k", default=10, show_default=True, help="Most hits.")
@click.option("-n", "--namespace", default=None, help="In this namespace.")
@click.option("--since", default=None, callback=moment, help="Said at or after this time.")
@click.option("--until", default=None, callback=moment, help="Said before this time.")
@click.option("--at", default=None, callback=moment, help="What was true then.")
@click.option("--past", is_flag=True, help="Also what is superseded or no longer true.")
@click.option("--exact", is_flag=True, help="Compare with every vector.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def search(query: str, namespace: str | None, as_json: bool, **asked: Any) -> None:
    """Find what answers QUERY, best first."""
    daemon, usual = daemon_and_namespace()
    body = {"query": query, "namespace": namespace or usual, **asked}
    found = daemon.post(f"{ROUTE}/search", {name: value for name, value in body.items() if value is not None})
    show(found, as_json, noting(lambda found: "\n".join(map(_hit_text, found["hits"])) or "nothing found"))


def _hit_text(hit: Any) -> str:
    return f"{hit['score']:.3f}  {hit['id']}  {hit['source']}\n       {_short(hit['text'])}\n       {hit['why']}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"


@memory.command(name="list")
@click.option("-n", "--namespace", default=None, help="In this namespace.")
@click.option("--source", default=None, help="Of this source only, as KIND:NAME.")
@click.option("--tag", default=None, help="With this tag.")
@click.option("--since", default=None, callback=moment, help="Said at or after this time.")
@click.option("--until", default=None, callback=moment, help="Said before this time.")
@click.option(
    "--state",
    type=click.Choice(["kept", "quarantined", "contested", "superseded"]),
    default=None,
    help="In this state.",
)
@click.option("--before", type=int, default=None, help="Number where the last page ended.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(as_json: bool, **asked: Any) -> None:
    """List memories, the last written first."""
    daemon, _ = daemon_and_namespace()
    found = daemon.get(f"{ROUTE}?{urlencode({n: v for n, v in asked.items() if v is not None})}")
    show(found, as_json, lambda found: "\n".join(map(memory_line, found["memories"])) or "nothing is remembered")


def memory_line(found: Any) -> str:
    state = "" if found["state"] == "kept" else f" [{found['state']}]"
    day = shown_moment(found["time"])[:10]
    return f"{found['num']:>6}  {found['id']}  {day}  {found['source']}{state}  {_short(found['text'])}"


@memory.command(name="show")
@click.argument("memory_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_(memory_id: str, as_json: bool) -> None:
    """Show one memory with all that is known of it."""
    daemon, _ = daemon_and_namespace()
    found = daemon.get(path_of(memory_id))
    show(found, as_json, _whole_text)


def _whole_text(found: Any) -> str:
    moments = {name: found[name] for name in ("time", "recorded", "valid_from", "valid_to") if found[name] is not None}
    told = {**found, **{name: shown_moment(value) for name, value in moments.items()}}
    told |= {name: ", ".join(found[name]) for name in ("tags", "derived_from")}
    if found["recorded"] == found["time"]:
        del told["recorded"]
    names = (
        *("id", "source", "trust", "taint", "state", "namespace", "time", "recorded", "valid_from", "valid_to"),
        *("place", "episode", "position", "tags", "derived_from"),
    )
    lines = [f"{name}: {told[name]}" for name in names if told.get(name) not in (None, "")]
    return "\n".join([found["text"], "", *lines])


@memory.command()
@click.argument("memory_id")
@click.argument("verdict", type=click.Choice(["confirmed", "refuted"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def judge(memory_id: str, verdict: str, as_json: bool) -> None:
    """Say that a memory is right or wrong; its source gains or loses trust."""
    daemon, _ = daemon_and_namespace()
    done = daemon.post(f"{path_of(memory_id)}/judge", {"verdict": verdict})
    show(done, as_json, lambda done: "counted" if done["counted"] else _UNCOUNTED)


@memory.command()
@click.argument("ids", nargs=-1)
@click.option("--query", default=None, help="All that contain these words.")
@click.option("--source", default=None, help="All of this source, as KIND:NAME.")
@click.option("-n", "--namespace", default=None, help="In this namespace.")
@click.option("--tag", default=None, help="With this tag.")
@click.option("--since", default=None, callback=moment, help="Said at or after this time.")
@click.option("--until", default=None, callback=moment, help="Said before this time.")
@click.option("--dry-run", is_flag=True, help="List what would go, and forget nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def forget(ids: tuple[str, ...], source: str | None, dry_run: bool, yes: bool, as_json: bool, **asked: Any) -> None:
    """Erase memories, by id or by all that they have in common, and prove it."""
    body = {"ids": ids, "source": _source(source), **asked}
    body = {name: value for name, value in body.items() if value not in (None, ())}
    if not body:
        raise BadRequest("it is not said what to forget", "give ids, --query, --source, --namespace, --tag or a time")
    daemon, _ = daemon_and_namespace()
    if dry_run or (not yes and not as_json):
        found = daemon.post(f"{ROUTE}/forget", {**body, "dry_run": True}, timeout=AT_LENGTH)
        if dry_run:
            show(found, as_json, _would_go_text)
            return
        say(_would_go_text({**found, "memories": found["memories"][:_PREVIEWED]}))
        click.confirm("Forget this for good?", abort=True, err=True)
    show(daemon.post(f"{ROUTE}/forget", body, timeout=AT_LENGTH), as_json, _receipt_text)


def _would_go_text(found: Any) -> str:
    more = found["count"] - len(found["memories"])
    lines = [*map(memory_line, found["memories"]), *([f"and {more} more"] if more else [])]
    return "\n".join([f"{found['count']} memories would go", *lines])


def _receipt_text(receipt: Any) -> str:
    size = sum(receipt["scanned"].values())
    kept = ", ".join(sorted({name for name, _ in receipt["residue"] if name.startswith(_KEPT_COPY)}))
    unfinished = f"traces are left in {kept}: remove it" if kept else _UNFINISHED
    proof = "no trace is left" if receipt["complete"] else unfinished
    lines = [f"forgot {len(receipt['ids'])} memories and {len(receipt['cascaded'])} that rested on them; {proof}"]
    lines.append(f"searched {size / 2**20:.1f} MiB of {len(receipt['scanned'])} files for {receipt['pieces']} pieces")
    elsewhere, kv = receipt["elsewhere"], receipt["elsewhere"].get("kv")
    if kv is not None:
        blocks = f"{kv['blocks']} KV blocks that quoted them, {kv['unread']} of models that are not loaded"
        lines.append(f"elsewhere: removed {blocks}, and {elsewhere['answers']} cached answers")
    if receipt["conversations"]:
        lines.append(f"quoted in the conversations {', '.join(receipt['conversations'])}: delete them in the chat")
    if receipt["drafts"]:
        lines.append(f"quoted in what was typed and not sent: {', '.join(receipt['drafts'])}; clear it in the chat")
    if receipt["files"]:
        files = ", ".join(receipt["files"])
        lines.append(f"still on disk, and not read again before it changes there or is added by hand: {files}")
    return "\n".join(lines)


@memory.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(as_json: bool) -> None:
    """How much is remembered, where, and by whom."""
    daemon, _ = daemon_and_namespace()
    show(daemon.get(f"{ROUTE}/stats"), as_json, noting(_stats_text))


def _stats_text(found: Any) -> str:
    lines = [f"{found['memories']} memories, {found['bytes'] / 2**20:.1f} MiB"]
    lines += [f"  {name}: {count}" for name, count in found["namespaces"].items()]
    lines += [f"  {each['source']}: {each['memories']}" for each in found["sources"]]
    return "\n".join(lines)
