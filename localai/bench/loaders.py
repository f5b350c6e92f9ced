"""Published test sets from a local file or the hub: KIND=FILE texts enter, one Suite leaves.

Files are read as their publishers ship them: .json, .jsonl, .csv, each also as .gz.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localai.bench.published import FORMATS
from localai.bench.tasks import Item, Suite
from localai.errors import BadRequest, DownloadFailed

_HUB = re.compile(r"hf:(?P<repo>[^/:]+/[^/:]+)/(?P<file>.+)")
_LARGEST = 256 * 2**20
_HINT = "give the file as it was published, as .json, .jsonl or .csv, also .gz"


def load_tasks(tasks: Sequence[str], cache: Path, limit: int = 0) -> Suite:
    """All `tasks` (KIND=FILE, or KIND=hf:owner/repo/file) as one suite; `limit` is most questions of each.

    Raises BadRequest for what is no task or a malformed file, DownloadFailed.
    """
    items: list[Item] = []
    notes: list[str] = []
    for task in tasks:
        kind, _, place = task.partition("=")
        if kind not in FORMATS or not place:
            known = ", ".join(FORMATS)
            raise BadRequest(f"{task!r} is no task", f"write KIND=FILE; kinds: {known}", param="task")
        path = _fetched(place, cache) if place.startswith("hf:") else _local(place)
        name = _name(kind, path, {item.category for item in items})
        found, said = _items(kind, path, name)
        items += found[: limit or None]
        notes += said
    return Suite(name="tasks", source=" ".join(_source(task) for task in tasks), items=tuple(items), notes=tuple(notes))


def _items(kind: str, path: Path, name: str) -> tuple[list[Item], tuple[str, ...]]:
    rows = rows_of(path)
    try:
        items, notes = FORMATS[kind](rows, name)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        number = _first_bad(kind, rows)
        why = f"row {number} is no {kind} question ({type(error).__name__}: {error})"
        raise BadRequest(f"{path.name}: {why}", _HINT, param="task") from error
    if not items:
        raise BadRequest(f"{path.name} has no questions to ask", _HINT, param="task")
    return items, notes


def _first_bad(kind: str, rows: Sequence[Any]) -> int:
    """The number of the first row that cannot be made alone, counted from 1."""
    for number, row in enumerate(rows, 1):
        try:
            FORMATS[kind]([row] * 4, "row")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return number
    return 1


def rows_of(path: Path) -> list[Any]:
    """The rows of a file. Raises BadRequest that names the line."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadRequest(f"{path.name} is larger than {_LARGEST >> 20} MiB", "give a part of it", param="task")
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(f"{path.name} cannot be read: {reason}", "check the path", param="task") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path.name} is no text in UTF-8", _HINT, param="task") from error
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "csv":
        return [row for row in csv.reader(io.StringIO(text)) if row]
    return _json_rows(text, path.name) if kind == "json" else _lines(text, path.name)


def _json_rows(text: str, name: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{name} is no JSON: {error}", _HINT, param="task") from error
    rows = found.get("examples") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise BadRequest(f"{name} holds neither a list nor `examples`", _HINT, param="task")
    return rows


def _lines(text: str, name: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise BadRequest(f"{name}, line {number}, is no JSON: {error}", _HINT, param="task") from error
    return rows


def _name(kind: str, path: Path, taken: set[str]) -> str:
    """A category's name: the kind, and the file's name where one kind has several files."""
    stem = re.sub(r"[^A-Za-z0-9_]", "_", path.name.partition(".")[0])
    name = f"bbh_{stem}" if kind == "bbh" else kind
    return name if name not in taken else f"{kind}_{stem}"


def _local(place: str) -> Path:
    path = Path(place).expanduser()
    if path.is_dir():
        raise BadRequest(f"{place!r} is a folder", "name the file in it", param="task")
    return path


def _source(task: str) -> str:
    """Without the folders of a path."""
    kind, _, place = task.partition("=")
    return task if place.startswith("hf:") else f"{kind}={Path(place).name}"


def _fetched(place: str, cache: Path) -> Path:
    """The local copy of a file of a hub's data set."""
    match = _HUB.fullmatch(place)
    if match is None:
        raise BadRequest(f"{place!r} names no file of a hub", "write hf:owner/repo/path/file.jsonl", param="task")
    import httpx2
    from huggingface_hub import errors, hf_hub_download

    try:
        found = hf_hub_download(match["repo"], match["file"], repo_type="dataset", cache_dir=cache)
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError) as error:
        hint = "check the name and the network, or give a local file"
        raise DownloadFailed(f"{place} cannot be fetched: {type(error).__name__}", hint) from error
    return Path(found)
