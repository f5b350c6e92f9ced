"""Every query and every model load as a row in SQLite: times, tokens, model, backend, reason, how it ended. No text.

Rows are written by one background thread, so that a slow disk never delays a token, and those of a moment together:
row by row, they would cost as much as all else that an answer takes beside its engine.
"""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar

from sqlite_utils import Database

from localai.energy.figures import Energy
from localai.energy.report import By, read
from localai.energy.taps import digest
from localai.errors import LocalaiError
from localai.messages import ChoiceDone, Started, Summary, TurnEvent, TurnRequest
from localai.metrics import Metrics
from localai.sqlite_file import open_file, translated

T = TypeVar("T")
_log = logging.getLogger(__name__)
_NAME = "ledger"
_GATHER_S = 0.1
"""Seconds that a row waits for others to be written with; whoever reads ends the wait."""


def m001_queries(db: Database) -> None:
    """Queries, and the model loads that some of them waited for. Times are Unix seconds, durations milliseconds."""
    db["queries"].create(
        {
            "id": int,
            "started": float,
            "app": str,
            "kind": str,
            "model": str,
            "backend": str,
            "reason": str,
            "conversation": str,
            "finish": str,
            "error": str,
            "prompt_tokens": int,
            "cached_tokens": int,
            "completion_tokens": int,
            "queue_ms": float,
            "load_ms": float,
            "ttft_ms": float,
            "prefill_ms": float,
            "decode_ms": float,
            "total_ms": float,
        },
        pk="id",
    )
    db["queries"].create_index(["started"])
    db["loads"].create(
        {
            "id": int,
            "started": float,
            "model": str,
            "backend": str,
            "version": str,
            "n_ctx": int,
            "total_ms": float,
            "stages": str,
            "settings": str,
            "charged_bytes": int,
            "resident_bytes": int,
            "error": str,
        },
        pk="id",
    )


_FIGURES = (
    *("joules", "prefill_joules", "decode_joules", "idle_joules", "watts"),
    *("coverage", "uncertainty", "cpu_seconds", "predicted_joules"),
)


def m002_energy(db: Database) -> None:
    """What each query took, null where unknown; its own id, and that of the query for which it was made."""
    queries = db["queries"]
    for name in ("request", "parent", "quality", "method", "scope", "energy_reason", "energy_stopped"):
        queries.add_column(name, str)
    for name in _FIGURES:
        queries.add_column(name, float)
    queries.create_index(["parent"])


def m003_auto(db: Database) -> None:
    """Of queries to model `auto`: how many times their joules the largest model would take, and accuracy lost."""
    for name in ("auto_times", "auto_lost"):
        db["queries"].add_column(name, float)


_FORETOLD = ("forecast_joules", "forecast_tokens")


def m004_forecasts(db: Database) -> None:
    """What was expected of each query before its answer, and a digest of the engine that answered."""
    for name in _FORETOLD:
        db["queries"].add_column(name, float)
    db["queries"].add_column("engine", str)
    db["queries"].create_index(["engine"])


class Entry:
    """One query while it runs; `saw` its events, and the row fills itself."""

    def __init__(self, request: TurnRequest) -> None:
        self.begun = time.monotonic()
        self.row: dict[str, Any] = {
            "started": time.time(),
            "app": request.app,
            "kind": request.kind,
            "model": request.model,
            "conversation": request.conversation,
            "request": request.id,
            "parent": request.parent,
            "auto_times": request.picked.times if request.picked else None,
            "auto_lost": request.picked.accuracy_lost if request.picked else None,
        }

    def routed(self, model: str, backend: str, reason: str, key: tuple[str, str, str] | None = None) -> None:
        """Who answers; `key` is the engine's, where it is one of this device."""
        self.row |= {"model": model, "backend": backend, "reason": reason, "engine": key and digest(key)}

    def took(self, energy: Energy) -> None:
        """Note the query's energy, however it ended."""
        self.row |= {
            **{name: getattr(energy, name) for name in (*_FIGURES, *_FORETOLD, "quality", "method")},
            "scope": " ".join(energy.scope) or None,
            "energy_reason": energy.reason or None,
            "energy_stopped": energy.stopped or None,
        }

    def serves(self, event: Started) -> Started:
        """Note why this engine serves, with what it does without: known once it is loaded."""
        self.row |= {"reason": event.reason}
        return event

    def saw(self, event: TurnEvent) -> None:
        if isinstance(event, Started):
            self.serves(event)
        elif isinstance(event, ChoiceDone):
            self.row["finish"] = event.reason
        elif isinstance(event, Summary):
            t = event.timings
            self.row |= {
                "prompt_tokens": event.prompt_tokens if event.counted else None,
                "cached_tokens": event.cached_tokens if event.counted else None,
                "completion_tokens": event.completion_tokens if event.counted else None,
                "queue_ms": t.queue_ms,
                "load_ms": t.load_ms,
                "ttft_ms": t.ttft_ms,
                "prefill_ms": t.prefill_ms,
                "decode_ms": t.decode_ms,
            }


class Ledger:
    """The file at `path`. Reads see what was written before them. `tell` gets the row of each query as it ends."""

    def __init__(self, path: Path, metrics: Metrics, tell: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self._db = open_file(path, _NAME, (m001_queries, m002_energy, m003_auto, m004_forecasts))
        self._metrics = metrics
        self._tell = tell
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._lock = Lock()
        self._hurry = Event()
        self._pending: list[tuple[str, dict[str, Any]]] = []

    @contextmanager
    def entry(self, request: TurnRequest) -> Iterator[Entry]:
        """Record a query however it ends: answered, failed, or abandoned by its client."""
        entry = Entry(request)
        self._metrics.running.inc()
        try:
            yield entry
        except LocalaiError as error:
            entry.row |= {"finish": "error", "error": error.code}
            raise
        except (GeneratorExit, CancelledError):
            entry.row["finish"] = "cancelled"
            raise
        except BaseException:
            entry.row |= {"finish": "error", "error": LocalaiError.code}
            raise
        finally:
            self._metrics.running.dec()
            entry.row["total_ms"] = round(1000 * (time.monotonic() - entry.begun), 3)
            self._metrics.count(entry.row)
            self._tell(entry.row)
            self._write("queries", entry.row)

    def note_load(self, row: dict[str, Any]) -> None:
        """Record a model load: what it was, its stages in seconds, bytes charged and bytes resident."""
        self._write("loads", {"started": time.time(), **row})

    def _write(self, table: str, row: dict[str, Any]) -> None:
        with self._lock:
            waiting = bool(self._pending)
            self._pending.append((table, row))
        if waiting:
            return
        try:
            self._writer.submit(self._insert)
        except RuntimeError:
            self._pending.clear()
            _log.error("a row came after the %s file was closed: %s", _NAME, row)

    def _insert(self) -> None:
        """Write all rows that wait: a disk that is slow to commit takes more of them at a time."""
        self._hurry.wait(_GATHER_S)
        with self._lock:
            pending, self._pending = self._pending, []
        for table in sorted({table for table, _ in pending}):
            rows = [row for name, row in pending if name == table]
            # Nobody waits for these rows: an answer must not fail because the disk is full, but the log must tell.
            try:
                with translated(_NAME):
                    self._insert_into(table, rows)
            except LocalaiError as error:
                _log.error("%d rows of %s are lost: %s", len(rows), table, error.message)

    def _insert_into(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        columns = sorted({name for row in rows for name in row})
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        with self._db.conn:
            self._db.conn.executemany(
                f"insert into {table} ({names}) values ({places})",
                [[row.get(name) for name in columns] for row in rows],
            )

    def totals(self, since: float) -> dict[str, Any]:
        """Counts and tokens of the queries since a Unix time, and the last loads."""
        return self._read(since).result()

    def _read(self, since: float) -> Future[dict[str, Any]]:
        def read() -> dict[str, Any]:
            sums = next(
                self._db.query(
                    "select count(*) queries, coalesce(sum(prompt_tokens), 0) prompt_tokens,"
                    " coalesce(sum(cached_tokens), 0) cached_tokens,"
                    " coalesce(sum(completion_tokens), 0) completion_tokens,"
                    " coalesce(sum(finish = 'error'), 0) errors from queries where started >= ?",
                    [since],
                )
            )
            loads = self._db["loads"].rows_where(order_by="id desc", limit=5)
            return {**sums, "loads": list(loads)}

        return self._soon(read)

    def joules_since(self, since: float) -> float:
        """Joules of the queries since a Unix time, whatever their quality; unknown ones count nothing."""
        sql = "select coalesce(sum(joules), 0.0) from queries where started >= ?"
        return float(self._soon(lambda: self._db.execute(sql, [since]).fetchone()[0]).result())

    def joules_of(self, app: str, since: float) -> float:
        """The same of one program."""
        sql = "select coalesce(sum(joules), 0.0) from queries where started >= ? and app = ?"
        return float(self._soon(lambda: self._db.execute(sql, [since, app]).fetchone()[0]).result())

    def energy(self, by: By, since: float) -> list[dict[str, Any]]:
        """Joules of the queries since a Unix time; see `energy.report.read`."""
        return self._soon(lambda: read(self._db.query, by, since)).result()

    def answers_of(self, engine: str, count: int) -> list[dict[str, Any]]:
        """The last queries with joules that the engine of this digest has answered, oldest first."""
        sql = "select * from queries where engine = ? and joules is not null order by id desc limit ?"
        return self._soon(lambda: list(self._db.query(sql, [engine, count]))).result()[::-1]

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest queries, newest first."""
        return self._soon(lambda: list(self._db["queries"].rows_where(order_by="id desc", limit=count))).result()

    def _soon(self, read: Callable[[], T]) -> Future[T]:
        """`read` behind the rows that wait, which are written now."""
        self._hurry.set()
        return self._writer.submit(self._calmly, read)

    def _calmly(self, read: Callable[[], T]) -> T:
        self._hurry.clear()
        return read()

    def close(self) -> None:
        """Write what is pending and close the file."""
        self._hurry.set()
        self._writer.shutdown(wait=True)
        self._db.close()
