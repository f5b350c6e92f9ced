"""A small JSON file of what was found out, replaced whole under a lock, so that several processes may use it.

A frozen value of one type enters and leaves. What is damaged is set aside as `.corrupt`, and begun anew.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from localai.atomic import replace_file
from localai.errors import OutOfResources

_log = logging.getLogger(__name__)


class _Content(Protocol):
    @property
    def format(self) -> int: ...


C = TypeVar("C", bound=_Content)


class StateFile(Generic[C]):
    """The file at `path`. `kind()` is an empty content; `remedy` tells the log what damage means."""

    def __init__(self, path: Path, kind: type[C], remedy: str) -> None:
        self.path = path
        self._kind = kind
        self._remedy = remedy
        self._kept: tuple[tuple[int, int, int], C] | None = None

    def read(self) -> C:
        """The content, an empty one where there is no file. Raises OutOfResources where it cannot be read."""
        try:
            state = self.path.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if self._kept is not None and self._kept[0] == stamp:
                return self._kept[1]
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return self._kind()
        except OSError as error:
            raise OutOfResources(
                f"cannot read {self.path.name}: {error.strerror}", "make it readable for you"
            ) from error
        try:
            content = msgspec.json.decode(raw, type=self._kind)
        except msgspec.MsgspecError as error:
            return self._set_aside(str(error))
        if content.format != self._kind().format:
            return self._set_aside(f"format {content.format}")
        self._kept = (stamp, content)
        return content

    def change(self, edit: Callable[[C], C]) -> None:
        """Replace the content by `edit` of it, alone among all processes. Raises OutOfResources."""
        with self._locked():
            # Two changes of others may leave size, time and place as they were; what is changed is read anew.
            self._kept = None
            replace_file(self.path, msgspec.json.format(msgspec.json.encode(edit(self.read()))))

    def clear(self) -> None:
        """Forget everything."""
        with self._locked():
            self.path.unlink(missing_ok=True)

    def _set_aside(self, why: str) -> C:
        aside = self.path.with_name(self.path.name + ".corrupt")
        _log.warning("%s is damaged (%s): set aside as %s, %s", self.path.name, why, aside.name, self._remedy)
        with suppress(OSError):  # another process was faster, or the folder is read-only: a write will say so
            self.path.replace(aside)
        return self._kind()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            # For this user alone: whoever may open it may hold it.
            file = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            hint = "make its folder writable for you"
            raise OutOfResources(f"cannot lock {self.path.name}: {error.strerror}", hint) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)
