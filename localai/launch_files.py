"""A recipe written into a program's own settings file, and taken out again.

What is added stands between two marks, or is merged into JSON. The text from before is kept in `launch.json` of the
home: what nobody changed since is put back as it was, byte for byte.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from localai.atomic import replace_file
from localai.errors import Conflict, NotFound, OutOfResources
from localai.launch import Recipe
from localai.state_file import StateFile

_OPEN, _CLOSE = "{0} >>> localai >>>", "{0} <<< localai <<<"


class _Change(msgspec.Struct, frozen=True):
    """`before` is None where there was no file; `after` is the SHA-256 of what was written, `added` what was merged."""

    path: str
    comment: str
    before: str | None
    after: str
    added: dict[str, Any] = {}


class _Kept(msgspec.Struct, frozen=True):
    tools: dict[str, _Change] = {}
    format: int = 1


class LaunchFiles:
    """What was written for programs by one home."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "launch.json", _Kept, "what was written for programs must be undone by hand")

    def write(self, tool: str, made: Recipe) -> Path:
        """Put `made` into its program's settings, in place of what an earlier call put there; the file's path.

        Raises NotFound where it has no file that can be written, Conflict where the file has such settings already.
        """
        if not made.path:
            hint = f"`localai launch {tool}` prints what to set"
            raise NotFound(f"the settings of {tool} are no file that can be written", hint)
        if tool in self._file.read().tools:
            self.undo(tool)
        # A link of somebody's own keeps pointing where it did.
        path = Path(made.path).expanduser().resolve()
        before = _text(path)
        after = _merged(path, before, made.merge) if made.merge else _with_block(path, before, made)
        change = _Change(str(path), made.comment, before, _digest(after), made.merge)
        self._file.change(lambda kept: _Kept({**kept.tools, tool: change}))
        _replace(path, after)
        return path

    def undo(self, tool: str) -> Path:
        """Take out what `write` put in. Raises NotFound where there is nothing, Conflict where it cannot be told."""
        change = self._file.read().tools.get(tool)
        if change is None:
            raise NotFound(f"nothing was written for {tool}", f"`localai launch {tool} --write` does that")
        path = Path(change.path)
        now = _text(path)
        if now is not None and _digest(now) == change.after:
            _restore(path, change.before)
        elif now is not None and change.comment:
            _restore(path, _without_block(now, change.comment))
        elif now is not None and change.added:
            # The programs write into such files themselves: what is not ours stays.
            left = _without(_parsed(path, now), _parsed(path, change.before), change.added)
            _restore(path, _json(left) if left else None)
        elif now is not None:
            hint = "take the lines out by hand; `localai launch` without --write shows them"
            raise Conflict(f"{path.name} was changed since, and it cannot be told what is whose", hint)
        self._file.change(lambda kept: _Kept({name: one for name, one in kept.tools.items() if name != tool}))
        return path


def _with_block(path: Path, before: str | None, made: Recipe) -> str:
    text = _without_block(before or "", made.comment)
    taken = [line for line in text.splitlines() if made.key and line.lstrip().startswith(made.key)]
    if taken:
        hint = "take it out, or add the lines by hand: without --write they are printed"
        raise Conflict(f"{path.name} has {taken[0].strip()!r} already", hint)
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}{_OPEN.format(made.comment)}\n{made.block}\n{_CLOSE.format(made.comment)}\n"


def _without_block(text: str, comment: str) -> str:
    start, end = text.find(_OPEN.format(comment)), text.find(_CLOSE.format(comment))
    if start < 0 or end < start:
        return text
    return text[:start] + text[end + len(_CLOSE.format(comment)) :].removeprefix("\n")


def _merged(path: Path, before: str | None, added: Mapping[str, Any]) -> str:
    return _json(_deep(_parsed(path, before), added))


def _parsed(path: Path, text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text and text.strip() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        hint = "change the lines by hand: without --write they are printed"
        raise Conflict(f"{path.name} is no plain JSON object, so nothing can be merged into it or taken out", hint)
    return found


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _without(now: Mapping[str, Any], before: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """`now` as it would be had `added` never been merged into `before`; what was changed since then stays changed."""
    left = dict(now)
    for key, value in added.items():
        current, earlier = now.get(key), before.get(key)
        if isinstance(value, dict) and isinstance(current, dict):
            inner = _without(current, earlier if isinstance(earlier, dict) else {}, value)
            if inner or key in before:
                left[key] = inner
            else:
                del left[key]
        elif key in now and current == value:
            del left[key]
            if key in before:
                left[key] = earlier
    return left


def _deep(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(old)
    for key, value in new.items():
        earlier = joined.get(key)
        joined[key] = _deep(earlier, value) if isinstance(earlier, dict) and isinstance(value, dict) else value
    return joined


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise OutOfResources(f"{path.name} cannot be read: {error}", "make it readable, in UTF-8") from error


def _restore(path: Path, before: str | None) -> None:
    if before is None or not before.strip():
        path.unlink(missing_ok=True)
    else:
        _replace(path, before)


def _replace(path: Path, text: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    replace_file(path, text.encode(), mode)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
