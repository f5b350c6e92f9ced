"""Files, folders and long pastes that go along with a message: paths enter, texts leave, or BadRequest in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localai.errors import BadRequest
from localai.sanitize import one_line

LARGEST_BYTES = 2 * 2**20
LONG_PASTE = 1000
"""Characters from which a paste becomes an attachment."""
MOST_LISTED = 5000
_MOST_IN_FOLDER = 64
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "venv", "build", "dist", "target"})
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".heic", ".tiff"})


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text under a name. `tokens` is about how many it takes until the daemon has counted them.

    `path` tells where it can be read again; a paste has none.
    """

    name: str
    text: str
    tokens: int
    counted: bool = False
    path: Path | None = None

    def label(self) -> str:
        return f"{self.name} ({'' if self.counted else 'about '}{self.tokens:,} tokens)"


def attached(name: str, text: str) -> Attachment:
    return Attachment(name, text, len(text.encode("utf-8", "replace")) // 4 + 1)


def read(path: Path) -> Attachment:
    """A text file, or all text files of a folder. Raises BadRequest."""
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in _PICTURES:
        raise BadRequest(f"{path.name} is a picture, and the models here have no eyes", "describe it in words")
    return attached(str(path), _text(path))


def read_again(paths: Sequence[Path]) -> tuple[tuple[Attachment, ...], str]:
    """Those that can be read, and what is to be said of the others."""
    found, missing = [], []
    for path in paths:
        try:
            found.append(replace(read(path), name=path.name, path=path))
        except BadRequest as error:
            missing.append(f"{one_line(error.message)}, so it is not attached any more.")
    return tuple(found), " ".join(missing)


def listed(folder: Path) -> tuple[str, ...]:
    """Files and folders below `folder`, relative to it; hidden ones and those that programs make are passed over."""
    found: list[str] = []
    for name in _walk(folder):
        found.append(name)
        if len(found) >= MOST_LISTED:
            break
    return tuple(found)


def _walk(folder: Path) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
        near = os.path.relpath(at, folder)
        prefix = "" if near == "." else f"{near}/"
        yield from (f"{prefix}{name}/" for name in folders)
        yield from (f"{prefix}{name}" for name in sorted(files) if not name.startswith("."))


def _folder(path: Path) -> Attachment:
    parts, size = [], 0
    names = [name for name in listed(path) if not name.endswith("/")]
    if len(names) > _MOST_IN_FOLDER:
        raise BadRequest(f"{path.name} holds {len(names)} files", f"attach a folder with at most {_MOST_IN_FOLDER}")
    for name in names:
        try:
            text = _text(path / name)
        except BadRequest:
            # A folder is taken for its texts; what else is in it is not meant.
            continue
        size += len(text)
        if size > LARGEST_BYTES:
            raise BadRequest(f"{path.name} holds more than {LARGEST_BYTES // 2**20} MiB of text", "attach a part of it")
        parts.append(f"== {name} ==\n{text}")
    if not parts:
        raise BadRequest(f"there is no text file in {path.name}", "choose another folder")
    return attached(f"{path}/", "\n".join(parts))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise BadRequest(f"{path.name} is larger than {LARGEST_BYTES // 2**20} MiB", "attach a part of it")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadRequest(f"{path.name} cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path.name} is not a text file", "attach text in UTF-8") from error
    if "\0" in text:
        raise BadRequest(f"{path.name} is not a text file", "attach text in UTF-8")
    return text
