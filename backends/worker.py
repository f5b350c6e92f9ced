"""The child process that makes tokens: `python -m backends.worker`, frames on standard input and output.

One thread reads frames and answers what needs no engine step; the main thread owns the engine and runs the step loop.
The end of input means that the daemon is gone: the process writes what it has only in RAM, and leaves.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

import msgspec
import psutil

from backends import registry
from backends.batcher import Batcher
from backends.constrain import Constraints
from backends.contract import (
    Cancel,
    Detokenize,
    EngineInfo,
    Event,
    FromChild,
    Ids,
    Job,
    Load,
    LoadFailed,
    Output,
    Pace,
    Ready,
    Stage,
    StepRecord,
    Text,
    ToChild,
    Tokenize,
)
from backends.draft import N_SEQ, DraftModel
from backends.engine import Engine, Residence, Tokenizer
from backends.errors import BackendError, EngineBusy, ModelFileError
from backends.frames import encode, parent_decoder
from backends.kv.codecs import codec_for
from backends.kv.keys import file_digest, root_key
from backends.kv.quotes import Quotes
from backends.kv.store import Store
from backends.kv_frames import Evicted, KvGrant, Purge, Purged
from backends.proving import prove
from backends.sequences import Sequence, prepare, rejection
from backends.threads import ThreadGovernor

MAX_WAITING = 256
_READ = 1 << 16
_STAGE_S = 0.1
_REPORT_S = 1.0
_REPORT_REST = 20.0
_SETTLE_S = 0.05
"""Seconds without work before the report of its end: one after each of many short jobs would cost more than they do."""
_LONGEST_REST_S = 1.0
FLUSH_S = 8.0
"""Most seconds for writing what is kept in RAM alone, when the daemon ends; a busy disk takes longer."""

Inbound = Sequence | Cancel | Evicted | Pace | Purge | None
"""What the reader hands to the engine's thread; None is the end."""


class Outbox:
    """Frames to the daemon, from either thread."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, frame: FromChild) -> None:
        data = encode(frame)
        with self._lock:
            self._pipe.write(data)
            self._pipe.flush()

    def emit(self, events: list[Event], record: StepRecord | None) -> None:
        self.send(Output(events, record))


class Reader(threading.Thread):
    """Turns frames into work for the engine thread; checks jobs and compiles grammars on the way.

    `waiting` counts the jobs that the engine thread has taken but not started.
    """

    def __init__(
        self,
        pipe: BinaryIO,
        first: list[ToChild],
        outbox: Outbox,
        tokenizer: Tokenizer,
        info: EngineInfo,
        inbox: SimpleQueue[Inbound],
        waiting: Callable[[], int],
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self.inbox = inbox
        self._pipe = pipe
        self._first = first
        self._outbox = outbox
        self._waiting = waiting
        self._tokenizer = tokenizer
        self._info = info
        self._constraints = Constraints(tokenizer)

    def run(self) -> None:
        decoder = parent_decoder()
        for frame in self._first:
            self._take(frame)
        while data := self._pipe.read(_READ):
            for frame in decoder.feed(data):
                self._take(frame)
        # A step that hangs must not keep a process alive that nobody hears any more.
        timer = threading.Timer(2 * FLUSH_S, os._exit, (0,))
        timer.daemon = True
        timer.start()
        self.inbox.put(None)
        timer.join()

    def _take(self, frame: ToChild) -> None:
        if isinstance(frame, Job):
            self._take_job(frame)
        elif isinstance(frame, Cancel | Evicted | Pace | Purge):
            self.inbox.put(frame)
        elif isinstance(frame, Tokenize):
            tokens = self._tokenizer.encode(frame.text, special=frame.special, add_bos=frame.add_bos)
            self._outbox.send(Ids(frame.id, tokens))
        elif isinstance(frame, Detokenize):
            text = b"".join(self._tokenizer.raw_piece(t) for t in frame.tokens)
            self._outbox.send(Text(frame.id, text.decode("utf-8", "replace")))

    def _take_job(self, job: Job) -> None:
        try:
            if self.inbox.qsize() + self._waiting() >= MAX_WAITING:
                raise EngineBusy(f"{MAX_WAITING} requests wait for this model already", "try again in a moment")
            sequence = prepare(job, self._info, self._tokenizer, self._constraints)
        except BackendError as error:
            self._outbox.emit([rejection(job.id, error)], None)
        else:
            self.inbox.put(sequence)


def _leave(error: threading.ExceptHookArgs) -> None:
    """A process whose reader is dead would never hear that its daemon is gone."""
    threading.__excepthook__(error)
    os._exit(1)


def teller(engine: Engine, outbox: Outbox) -> Callable[[], None]:
    """Makes what tells the daemon which weights are in memory: the kernel looks at every page, so it is paced."""
    rest_until = 0.0

    def tell() -> None:
        nonlocal rest_until
        begun = time.monotonic()
        if isinstance(engine, Residence) and begun >= rest_until and (report := engine.residency()) is not None:
            outbox.send(report)
            rest_until = time.monotonic() + _REPORT_REST * (time.monotonic() - begun)

    return tell


def serve(
    batcher: Batcher,
    inbox: SimpleQueue[Inbound],
    store: Store | None,
    outbox: Outbox,
    tell: Callable[[], None] = lambda: None,
) -> None:
    """The step loop: sleeps while there is nothing to do, ends with its daemon. `tell` makes other reports."""
    reported, rest, news = 0.0, 0.0, True

    def report() -> None:
        nonlocal reported, news
        if store is not None:
            outbox.send(store.report())
        outbox.send(batcher.census)
        tell()
        reported, news = time.monotonic(), False

    while True:
        if batcher.idle and inbox.empty() and batcher.tend():
            continue
        if not batcher.idle and time.monotonic() - reported > _REPORT_S:
            report()
        while batcher.idle or not inbox.empty():
            try:
                item = inbox.get(timeout=_SETTLE_S if news else None)
            except Empty:
                report()
                continue
            if isinstance(item, Cancel):
                batcher.cancel(item.job)
            elif isinstance(item, Sequence):
                batcher.add(item)
            elif isinstance(item, Evicted) and store is not None:
                store.forget(item.keys)
            elif isinstance(item, Pace):
                rest = item.rest
            elif isinstance(item, Purge):
                purge(item, batcher, store, outbox)
            elif item is None:
                return
        begun, news = time.monotonic(), True
        batcher.turn()
        if rest:
            time.sleep(min(_LONGEST_REST_S, rest * (time.monotonic() - begun)))


def purge(order: Purge, batcher: Batcher, store: Store | None, outbox: Outbox) -> None:
    """Forget what quotes, cells first, because a sequence that leaves them is saved; answered when the disk is done."""
    quotes = Quotes(order.pieces, batcher.spell)
    sequences = batcher.purge(quotes)
    blocks = store.purge(quotes) if store is not None else 0
    done = Purged(order.id, store.roots() if store is not None else [], blocks, sequences)
    if store is None:
        outbox.send(done)
    else:
        store.when_written(lambda: outbox.send(done))


def open_store(engine: Engine, order: Load) -> Store | None:
    """The KV cache behind the engine's cells, as far as the engine can and the daemon grants it."""
    codec, grant = codec_for(engine), order.kv
    identity = engine.info().kv_identity
    if codec is None or not (grant.ram or (grant.ssd and grant.folder)):
        return None
    if not identity:
        grant = KvGrant(ram=grant.ram)
    try:
        digest = order.digest or file_digest(Path(order.path))
    except OSError as error:
        raise ModelFileError("the model file cannot be read", "check its permissions") from error
    return Store(grant, root_key(identity, digest, codec.block), codec)


def open_draft(engine: Engine, order: Load) -> DraftModel | None:
    """The small model that guesses for `engine`, where one is asked for. Raises BackendError where it cannot."""
    if not order.draft:
        return None
    small = msgspec.structs.replace(order, path=order.draft, draft="", n_seq=N_SEQ, digest="", kv=KvGrant())
    return DraftModel(registry.open_engine(small, lambda *_: None), engine.tokenizer)


def load(order: Load, outbox: Outbox) -> tuple[Engine, ThreadGovernor, dict[int, float]]:
    """Open the model and, where asked, prove the settings; stages are reported at most ten times a second."""
    last = 0.0

    def progress(stage: str, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _STAGE_S or fraction >= 1.0:
            last = now
            outbox.send(Stage(stage, fraction))

    engine = registry.open_engine(order, progress)
    progress("self-test", 1.0)
    return engine, *prove(engine, order)


def main() -> None:
    """Entry point of the child. The daemon alone decides when it stops, so Ctrl-C in its terminal is not for us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where a debugger is installed, ggml's abort would first attach it, for ten seconds in which nobody is told.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    outbox = Outbox(os.fdopen(os.dup(1), "wb", buffering=1 << 16))
    # Whatever a library prints must not land between frames.
    os.dup2(2, 1)
    decoder = parent_decoder()
    frames: list[ToChild] = []
    while not frames:
        data = source.read(_READ)
        if not data:
            return
        frames = decoder.feed(data)
    order = frames[0]
    if not isinstance(order, Load):
        raise SystemExit("the first frame must be Load")
    try:
        engine, governor, rates = load(order, outbox)
        draft = open_draft(engine, order)
    except BackendError as error:
        outbox.send(LoadFailed(error.kind, error.message, error.hint))
        raise SystemExit(3) from error
    info = engine.info()
    if draft is not None:
        info = msgspec.structs.replace(info, capabilities=info.capabilities | {"draft"})
    inbox: SimpleQueue[Inbound] = SimpleQueue()
    store = open_store(engine, order)
    batcher = Batcher(engine, governor, outbox.emit, order.step_seconds, store, lambda: not inbox.empty(), draft)
    reader = Reader(source, frames[1:], outbox, engine.tokenizer, info, inbox, lambda: batcher.census.waiting)
    outbox.send(Ready(info, psutil.Process().memory_info().rss, rates))
    threading.excepthook = _leave
    reader.start()
    serve(batcher, inbox, store, outbox, teller(engine, outbox))
    while batcher.tend():
        pass
    if store is not None:
        store.close(FLUSH_S)
    os._exit(0)


if __name__ == "__main__":
    main()
