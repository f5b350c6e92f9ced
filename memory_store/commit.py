"""Group commit: writers that wait at the same time share one transaction, hence one wait for the disk.

Work and what it is done on enter, results leave once the transaction is durable. It knows nothing of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Condition, Lock
from typing import Generic, TypeVar

from memory_store.dbfile import Connection, driver_errors, error_for
from memory_store.errors import MemoryStoreError, StoreBusy

Item = TypeVar("Item")
T = TypeVar("T")
# Told the last number in the log after adds, None after other writes.
Follower = Callable[[int | None], None]
MOST_TOGETHER = 256
# A fraction of one wait for the disk: what writers that come back take to write again.
PATIENCE_SECONDS = 0.002


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[Item, T]):
    """What is done for all neighbours in the queue that bring the same one: a result for each of their items.

    `ready` runs before the transaction, in the thread that commits for the others: they sleep meanwhile, where each on
    its own would take Python's lock from the others at every step.
    """

    write: Callable[[Connection, Sequence[Item]], Sequence[T]]
    ready: Callable[[Sequence[Item]], Sequence[Item]] = lambda items: items


class _Job(Generic[Item, T]):
    __slots__ = ("done", "error", "item", "result", "stamp", "wake", "work")

    def __init__(self, work: Work[Item, T], item: Item) -> None:
        self.work, self.item = work, item
        self.result: T | None = None
        self.error: MemoryStoreError | None = None
        self.stamp = 0
        self.done = False
        self.wake = Lock()
        self.wake.acquire()


class GroupCommit:
    """The one writer of a file. There is no thread of its own: one of those who wait commits for all of them."""

    def __init__(
        self,
        connection: Connection,
        *,
        begun: Callable[[], None],
        stamp: Callable[[Connection], int],
        forget: Callable[[], None],
    ) -> None:
        """`begun` is called first and `stamp` last in each transaction, `forget` after a rollback.

        What `stamp` returns goes to all who were in the transaction; what was learnt about rows in one that is rolled
        back no longer holds.
        """
        self._connection = connection
        self._begun, self._stamp, self._forget = begun, stamp, forget
        self._turn = Lock()
        self._queue = Condition()
        self._leading = False
        self._together = 1
        self._waiting: list[_Job[object, object]] = []

    def run(self, work: Work[Item, T], item: Item) -> tuple[T, int]:
        """Run `work` on `item` in a transaction; its result and the transaction's stamp, when that is on disk.

        A failing `work` fails alone; it may run twice, so it changes nothing but the database. Raises what it raises,
        SQLite's errors translated.
        """
        job: _Job[Item, T] = _Job(work, item)
        with self._queue:
            self._waiting.append(job)  # type: ignore[arg-type]
            leads, self._leading = not self._leading, True
            self._queue.notify()
        if not leads:
            self._wait(job)
        if not job.done:
            self._lead(job)
        if job.error is not None:
            raise job.error
        return job.result, job.stamp  # type: ignore[return-value]

    def _wait(self, job: _Job[Item, T]) -> None:
        """Until the job is done, or has the lead. Interrupted, it leaves the queue and passes on the lead."""
        try:
            job.wake.acquire()
        except BaseException:
            with self._queue:
                self._waiting = [other for other in self._waiting if other is not job]
                if job.wake.acquire(blocking=False) and not job.done:
                    self._pass_on()
            raise

    def _lead(self, job: _Job[Item, T]) -> None:
        """Commit those who wait, the caller first among them, and pass the lead on."""
        batch: list[_Job[object, object]] = []
        try:
            with self._turn:
                batch = self._next()
                self._commit(batch)
        finally:
            with self._queue:
                self._waiting = [other for other in self._waiting if other is not job]
                self._pass_on()
            for other in batch[1:]:
                other.wake.release()

    def _pass_on(self) -> None:
        self._leading = bool(self._waiting)
        for job in self._waiting[:1]:
            job.wake.release()

    def alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` outside of any transaction while no writer writes: checkpoints and VACUUM."""
        with self._turn:
            try:
                return work(self._connection)
            except driver_errors() as error:
                raise error_for(error) from error

    def _next(self) -> list[_Job[object, object]]:
        """Who waits. As many as last time are given a moment to come, else two groups alternate."""
        with self._queue:
            self._queue.wait_for(lambda: len(self._waiting) >= self._together, PATIENCE_SECONDS)
            batch, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            self._together = len(batch)
        return batch

    def _commit(self, batch: list[_Job[object, object]]) -> None:
        try:
            error = self._transaction(batch)
            if error is not None and len(batch) > 1:
                for job in batch:
                    job.error = self._transaction([job])
            elif error is not None:
                batch[0].error = error
        except BaseException:
            for job in batch:
                job.error = StoreBusy("the write was interrupted", "try again")
            raise
        finally:
            for job in batch:
                job.done = True

    def _transaction(self, batch: list[_Job[object, object]]) -> MemoryStoreError | None:
        try:
            groups = [(work, list(jobs)) for work, jobs in groupby(batch, lambda job: job.work)]
            items = [work.ready([job.item for job in jobs]) for work, jobs in groups]
            self._connection.execute("BEGIN IMMEDIATE")
            self._begun()
            for (work, jobs), ready in zip(groups, items, strict=True):
                for job, result in zip(jobs, work.write(self._connection, ready), strict=True):
                    job.result, job.error = result, None
            stamp = self._stamp(self._connection)
            self._connection.execute("COMMIT")
            for job in batch:
                job.stamp = stamp
        except MemoryStoreError as error:
            self._undo()
            return error
        except driver_errors() as error:
            self._undo()
            return error_for(error)
        except BaseException:
            self._undo()
            raise
        return None

    def _undo(self) -> None:
        self._forget()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class Followed:
    """What follows the file is told of every write, of adds once for all that were committed when it began to look."""

    def __init__(self) -> None:
        self._turn, self._numbers = Lock(), Lock()
        self._last = self._told = 0

    def pass_on(self, followers: Iterable[Follower], seq: int | None) -> None:
        """Called after a commit; at return each of `followers` was told of `seq`, or a later one, or of None."""
        if seq is not None:
            with self._numbers:
                self._last = max(self._last, seq)
        with self._turn:
            if seq is not None and self._told >= seq:
                return
            last = self._last
            for follower in followers:
                follower(None if seq is None else last)
            self._told = last
