"""Pages of keys and values on the SSD: one file per sequence, past the system's page cache where it lets us.

Arrays enter and leave. The file has no name while it is open, so that the system removes it with the process, however
that ends. Knows nothing of which pages matter.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from backends.engine import Floats
from backends.errors import StorageFailed

_SUFFIX = ".kvpages"
_READERS = 4
"""Reads at once: a single one waits for the SSD and not for its bandwidth."""
_ALIGNMENT = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_PARTS = 512
"""Pages of one system call, which takes 1,024 buffers."""


class PageFile:
    """`planes` rows of up to `pages` pages; a page is two arrays of `half_bytes`, keys and values.

    Never holds more than `cap` bytes. Its room is taken page by page, and given back by `clear`.
    """

    def __init__(self, folder: Path, planes: int, pages: int, half_bytes: int, cap: int) -> None:
        self._folder = folder
        self._half = half_bytes
        self._page = 2 * half_bytes
        self._row = pages * self._page
        self._size = planes * self._row
        self._cap = cap
        self._fd = -1
        self._readers: ThreadPoolExecutor | None = None
        self._written: set[int] = set()
        # Whoever holds one open has taken its name away: what is found was left by a crash.
        for orphan in folder.glob(f"*{_SUFFIX}"):
            orphan.unlink(missing_ok=True)
        self.direct = False
        self.read_pages = 0
        self.read_bytes = 0
        self.written_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that the file takes now."""
        return len(self._written) * self._page

    def write(self, plane: int, page: int, keys: Floats, values: Floats) -> None:
        """Raises StorageFailed where the cap or the disk has no room, or the disk fails."""
        place = plane * self._row + page * self._page
        if place not in self._written and self.held_bytes + self._page > self._cap:
            raise _full(f"the {self._cap} bytes that it may take there are in use")
        try:
            if self._fd < 0:
                self._open()
            wrote = os.pwritev(self._fd, [keys.data, values.data], place)
        except OSError as error:
            raise _trouble(error) from error
        if wrote != self._page:
            raise _full("a page could not be written whole")
        self._written.add(place)
        self.written_bytes += wrote

    def read(self, plane: int, first: int, keys: Sequence[Floats], values: Sequence[Floats]) -> Future[None]:
        """Fill arrays with neighbouring pages from `first` on; the future raises StorageFailed where that fails."""
        assert self._readers is not None
        self.read_pages += len(keys)
        self.read_bytes += len(keys) * self._page
        return self._readers.submit(self._fill, plane * self._row + first * self._page, keys, values)

    def _fill(self, place: int, keys: Sequence[Floats], values: Sequence[Floats]) -> None:
        for start in range(0, len(keys), _MOST_PARTS):
            pairs = zip(keys[start : start + _MOST_PARTS], values[start : start + _MOST_PARTS], strict=True)
            buffers = [part.data for pair in pairs for part in pair]
            try:
                found = os.preadv(self._fd, buffers, place + start * self._page)
            except OSError as error:
                raise _trouble(error) from error
            if found != len(buffers) * self._half:
                raise StorageFailed("a page of the context on the SSD is cut short", "send the request again")

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fd, name = tempfile.mkstemp(suffix=_SUFFIX, dir=self._folder)
        with suppress(FileNotFoundError):
            os.unlink(name)
        os.ftruncate(self._fd, self._size)
        self.direct = self._half % _ALIGNMENT == 0 and _uncached(self._fd)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="pages")

    def clear(self) -> None:
        """Forget all pages, and give their room back."""
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._written.clear()


def _uncached(fd: int) -> bool:
    """Let reads and writes bypass the page cache; False where the file system cannot."""
    import fcntl

    try:
        if hasattr(os, "O_DIRECT"):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        else:
            fcntl.fcntl(fd, getattr(fcntl, "F_NOCACHE"), 1)  # noqa: B009
    except OSError:
        return False
    return True


def _full(why: str) -> StorageFailed:
    return StorageFailed(
        f"the SSD has no room for the context: {why}", "free some disk space, raise page_ssd, or send a shorter prompt"
    )


def _trouble(error: OSError) -> StorageFailed:
    if error.errno in _FULL:
        return _full(error.strerror or "disk full")
    return StorageFailed(f"the context cannot be kept on the SSD: {error.strerror}", "check the disk of LOCALAI_HOME")
