"""Files that the chat reads and writes: exports, imports, code. Everything blocks and raises LocalaiError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from localai.errors import BadRequest

_MOST_BYTES = 64 * 2**20
_ENDINGS = {"python": ".py", "javascript": ".js", "typescript": ".ts", "bash": ".sh", "shell": ".sh", "rust": ".rs"}
_ENDINGS |= {"markdown": ".md", "ruby": ".rb", "golang": ".go", "text": ".txt", "": ".txt", "c++": ".cpp"}

_KINDS = {"": "markdown", "markdown": "markdown", "md": "markdown", "json": "json", "html": "html"}


def ending_of(language: str) -> str:
    """Of a file with this code."""
    known = _ENDINGS.get(language.lower())
    return known or ("." + "".join(c for c in language.lower() if c.isalnum()))


def kind_of(text: str) -> str:
    """What an export is to be. Raises BadRequest."""
    kind = _KINDS.get(text.lower().removeprefix("."))
    if kind is None:
        raise BadRequest(f"{text!r} is no kind of export", "choose markdown, json or html")
    return kind


def written(path: Path, text: str) -> Path:
    """Write a new file; where one is there already, a number goes into the name. Gives the path that it has now."""
    for number in range(1, 1000):
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
        except OSError as error:
            raise BadRequest(f"{target.name} cannot be written: {error.strerror}", "choose another place") from error
        return target
    raise BadRequest(f"there are too many files named like {path.name}", "choose another name")


def chats_of(path: Path) -> Any:
    """The JSON of an export. Raises BadRequest."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadRequest(f"{path.name} is larger than {_MOST_BYTES // 2**20} MiB", "import a part of it")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadRequest(f"{path.name} cannot be read: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path.name} is no JSON", "give the JSON file of an export") from error
    if not isinstance(found, list | dict):
        raise BadRequest(f"{path.name} holds no chats", "give the JSON file of an export")
    return found
