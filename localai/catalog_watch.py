"""Keeps a catalogue current while the daemon runs: a change of the user's `models.toml` is seen and read at once.

A new file that is sound replaces the catalogue in one assignment; a broken one is logged and the old one stays.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from localai.catalog import FILE, Catalog
from localai.errors import ConfigError

SETTLE_S = 0.2
_WATCHED: list[type[FileSystemEvent]] | None = (
    [FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent] if sys.platform == "linux" else None
)
"""Databases lie in the same folder and are written with every answer: where the kernel can tell, only what was closed
after writing counts, or a thread would wake up for each page of theirs."""

_log = logging.getLogger(__name__)


class CatalogWatcher:
    """`current` is the newest sound catalogue; `on_change` hears of each new one, on a thread of the watcher.

    Raises ConfigError on construction where the files are wrong from the start.
    """

    def __init__(self, home: Path, on_change: Callable[[Catalog], None] | None = None) -> None:
        self._home = home
        self.on_change = on_change
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._observer = Observer()
        self._observer.daemon = True
        self.current = Catalog.load(home)

    def start(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        handler = _Overlay(self._home / FILE, self._touched)
        self._observer.schedule(handler, str(self._home), recursive=False, event_filter=_WATCHED)
        self._observer.start()
        # What was written between the first reading and now has told nobody.
        self._reload()

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _touched(self) -> None:
        """Wait until the writing has settled: editors truncate first and write after."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(SETTLE_S, self._reload)
            self._timer.daemon = True
            self._timer.start()

    def _reload(self) -> None:
        # One at a time: who began earlier must not put an older reading over a newer one.
        with self._reading:
            try:
                catalog = Catalog.load(self._home)
            except ConfigError as error:
                _log.error("the model catalogue stays as it was: %s (%s)", error.message, error.hint)
                return
            if catalog == self.current:
                return
            self.current = catalog
            _log.info("the model catalogue was read again: %d models", len(catalog.specs))
            if self.on_change is not None:
                self.on_change(catalog)


class _Overlay(FileSystemEventHandler):
    """Passes on what happens to one file of a folder, however it is written or replaced."""

    def __init__(self, path: Path, touched: Callable[[], None]) -> None:
        self._path = str(path)
        self._touched = touched

    def on_any_event(self, event: FileSystemEvent) -> None:
        ours = self._path in (str(event.src_path), str(event.dest_path))
        if ours and event.event_type not in ("opened", "closed_no_write"):
            self._touched()
