"""The composition root: one process per home, its parts built in order and taken down in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import logging.handlers
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO

import uvicorn
import uvloop
from threadpoolctl import threadpool_limits

from backends.handle import EngineHandle
from localai.answer_cache import Answers
from localai.api.gate import Gate
from localai.api.replies import Replies
from localai.application import build
from localai.audit import Audit
from localai.auto.chooser import Auto
from localai.calibrate import Calibrator
from localai.calibration_store import CalibrationStore
from localai.catalog_watch import CatalogWatcher
from localai.choice import Choice
from localai.config import Config
from localai.conversations import Conversations
from localai.device import Device, inspect
from localai.drafts import draft_for
from localai.energy.budgets import DayBudget
from localai.energy.draw import Draws
from localai.energy.experience import REMEMBERED, Past
from localai.energy.lookout import Lookout
from localai.energy.meter import Meter
from localai.energy.on_battery import PowerSource, Saver
from localai.energy.pacing import Pacer
from localai.energy.recorded import past
from localai.energy.sensors import has_board
from localai.energy.spending import Metering
from localai.energy.taps import EngineKey, digest
from localai.engine_notes import note_guesses, note_paging
from localai.engines import Engines
from localai.errors import Conflict, OutOfResources
from localai.forgetting import Forgetting
from localai.hangs import Hangs
from localai.kv_accuracy import costs_here
from localai.kv_cache import KvCache
from localai.kv_trials import KvTrials
from localai.laboratory import Laboratory
from localai.ledger import Ledger
from localai.library import Library
from localai.lifecycle import make_folders
from localai.market import Market
from localai.memories import Memories
from localai.metrics import Metrics
from localai.orders import Orders
from localai.peers import PeerChecked
from localai.pool import Pool
from localai.pressure import pressure
from localai.quotas import Quotas
from localai.residence import Residence
from localai.spans import Spans
from localai.tested import TestedSettings
from localai.tokens import Tokens
from localai.tools.toolbox import Toolbox
from localai.turn import Parts
from localai.upstreams.relay import Upstreams
from localai.watched import WatchedFolders

_log = logging.getLogger("localai")

GRACE_S = 20.0
"""Seconds that running requests get to finish when the daemon is asked to stop."""
_BACKLOG = 512
_STALLED = 5.0
"""Percent of the time in which work waits for memory, above which nothing is loaded unasked."""


def serve(config: Config, *, foreground: bool) -> None:
    """Run until asked to stop. Raises Conflict where a daemon runs already or the port is taken."""
    make_folders(config.home)
    # A fork waits for the threads that OpenBLAS multiplies with, which may wait for the forking thread: engines are
    # started while the memory multiplies.
    threadpool_limits(1, user_api="blas")
    with _sole_instance(config) as lock:
        _log_to(config, foreground=foreground)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        # From the first socket on, being asked to end must leave nothing behind; `_Server` takes over later.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            sockets = _listen(config)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(config, sockets))
        finally:
            config.socket.unlink(missing_ok=True)


async def _run(config: Config, sockets: list[socket.socket]) -> None:
    started, metrics = time.time(), Metrics()
    spans = Spans(config.otlp)
    ledger = Ledger(config.home / "ledger.db", metrics, spans.note)
    kept = Conversations(config.home / "conversations.db")
    catalog = CatalogWatcher(config.home)
    library = Library(config.home, catalog.current)
    catalog.on_change = library.use
    device = inspect(config.home)
    tested = TestedSettings(config.home / "tested.json")
    kv_cache = KvCache(config, metrics.kv, lambda: [s.handle for s in pool.slots if s.handle])
    store = CalibrationStore(config.home)
    drafts = partial(draft_for, config=config, library=library)
    orders = Orders(config, device, kv_cache, partial(costs_here, store, device.fingerprint), drafts)
    engines = Engines(config, orders, tested, ledger, kv_cache)
    residence = _residence(config, lambda: metering.day)
    pool = Pool(
        plan=engines.plan,
        load=engines.load,
        budget=engines.memory,
        keep_alive=residence if config.keep_alive == "auto" else float(config.keep_alive),
        on_step=metrics.count_step,
        queue=config.queue,
    )
    engines.paged = partial(note_paging, store, device.fingerprint)
    engines.guessed = partial(note_guesses, config.home, device.fingerprint)
    engines.charged = lambda: sum(s.charged for s in pool.slots if s.handle)
    kv_cache.granted = lambda: sum(s.plan.shelf for s in pool.slots if s.plan)
    calibrator = _calibrator(pool, engines, orders, tested, store)
    engines.calibrator = calibrator if config.calibrate else None
    draws = Draws(config.home / "watts.json", device.fingerprint)
    engines.meter = meter = _meter(config, device, draws, ledger)
    metrics.energy = meter.totals
    barred = partial(_barred, pool, engines)
    market = Market(device.fingerprint, store, lambda: pool.slots, barred, lambda: calibrator.doing, draws)
    metering = _metering(config, meter, draws, ledger, pool)
    memories = Memories(config)
    watched, answers = _beside(memories, kept, kv_cache)
    upstreams, auto = Upstreams(lambda: library.catalog), Auto(config.home, library, market)
    gate, toolbox, replies = _gate(config, ledger), Toolbox(config.home, config.logs), Replies(kept)
    parts = Parts(config, library, pool, ledger, market, metering, memories, answers, upstreams, auto, toolbox)
    parts = _embedding(parts)
    hangs = Hangs(lambda: [s.handle for s in pool.slots if s.handle], config.engine_timeout)
    server = _Server(config)
    app = build(parts, kept, metrics, kv_cache, watched, gate, toolbox, replies, started=started, stop=server.end)
    catalog.start()
    try:
        await kv_cache.start()
        await asyncio.to_thread(watched.start)
        await server.run(app, sockets, pool)
    finally:
        for part in (hangs, replies, toolbox, upstreams, calibrator):
            await part.close()
        meter.close()
        draws.close()
        await kv_cache.close()
        catalog.stop()
        for each in (ledger, spans, watched, memories, answers, kept, gate, residence):
            await asyncio.to_thread(each.close)
        _log.info("stopped")


def _settle() -> None:
    """What is there now stays: to look through it again for garbage took a tenth of a second, in which all wait."""
    gc.collect()
    gc.freeze()


def _meter(config: Config, device: Device, draws: Draws, ledger: Ledger) -> Meter:
    def remembered(key: EngineKey) -> list[Past]:
        return [past(row) for row in ledger.answers_of(digest(key), REMEMBERED)]

    board, lookout = has_board(device.gpus), Lookout()
    return Meter(
        lookout.find(), watts=config.cpu_watts, gpu=board, draws=draws, remembered=remembered, look=lookout.look
    )


def _beside(memories: Memories, kept: Conversations, kv_cache: KvCache) -> tuple[WatchedFolders, Answers]:
    """What reads and writes the memory outside of turns."""
    answers = Answers(memories.config, memories)
    forgetting = Forgetting(memories, kept, answers, kv_cache, memories.config.home)
    return WatchedFolders(memories, partial(forgetting.from_thread, loop=asyncio.get_running_loop())), answers


def _embedding(parts: Parts) -> Parts:
    """The same, with the memory's embedding model in place where one is set: it works in turns itself."""
    if parts.config.memory_embedder:
        from localai.memory_embedder import ModelEmbedder

        parts.memories.embedder = ModelEmbedder(parts.config.memory_embedder, parts, asyncio.get_running_loop())
    return parts


def _residence(config: Config, day: Callable[[], DayBudget]) -> Residence:
    """What learns how long models stay, where that is not fixed."""
    power = PowerSource()

    def forbids() -> str:
        spent = 0 < config.max_joules_per_day <= day().spent
        stalls = next((p.some for p in pressure() if p.resource == "memory"), 0.0)
        return (
            ("the machine runs on its battery" if power.on_battery else "")
            or ("today's energy budget is spent" if spent else "")
            or ("policy is frugal" if config.policy == "frugal" else "")
            or (f"other programs wait for memory ({stalls:.0f} % of the time)" if stalls >= _STALLED else "")
        )

    def thrifty() -> bool:
        return config.policy == "frugal" or power.on_battery

    return Residence(config.home / "pauses.json", thrifty, forbids)


def _calibrator(
    pool: Pool, engines: Engines, orders: Orders, tested: TestedSettings, store: CalibrationStore
) -> Calibrator:
    return Calibrator(
        tested,
        Laboratory(orders, tested, store),
        busy=lambda: any(s.users or s.handle is None for s in pool.slots),
        free=lambda: engines.memory() - engines.charged(),
        kv_trials=KvTrials(orders, tested, store),
    )


def _barred(pool: Pool, engines: Engines, choice: Choice) -> str:
    """Why an engine is not to be chosen now; '' where nothing speaks against it."""
    resting = "it died repeatedly and rests for a minute" if pool.resting(choice) else ""
    return resting or ("it died with every setting on this device" if engines.hopeless(choice) else "")


def _gate(config: Config, ledger: Ledger) -> Gate:
    strangers = config.loopback and config.tokens == "optional"
    audit = Audit(config.logs / "audit.jsonl")
    return Gate(Tokens(config.home), Quotas(ledger.joules_of), audit, strangers=strangers)


def _metering(config: Config, meter: Meter, draws: Draws, ledger: Ledger, pool: Pool) -> Metering:
    def engines() -> list[EngineHandle]:
        return [slot.handle for slot in pool.slots if slot.handle]

    day = DayBudget(config.max_joules_per_day, ledger.joules_since)
    pacer = Pacer(config.power_cap, draws, meter.working, engines, config.cpu_watts)
    return Metering(meter, day, pacer, Saver(config, PowerSource()))


class _Server:
    """uvicorn with a graceful end of our own: new requests are refused, running ones may finish."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()

    def end(self) -> None:
        """End gracefully; asked for a second time, at once."""
        (self._hurry if self._ending.is_set() else self._ending).set()

    async def run(self, app: object, sockets: list[socket.socket], pool: Pool) -> None:
        _settle()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.end)
        server = _Uvicorn(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_config=None,
                access_log=False,
                lifespan="off",
                http=PeerChecked.within(self._config.body_timeout),
                timeout_graceful_shutdown=2,
                server_header=False,
                proxy_headers=False,
                date_header=False,
            )
        )
        serving = asyncio.create_task(server.serve(sockets))
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping: %d engines, %d requests", len(pool.slots), sum(s.users for s in pool.slots))
        await self._close(pool)
        server.end.set()
        await serving
        ending.cancel()

    async def _close(self, pool: Pool) -> None:
        closing = asyncio.create_task(pool.close(GRACE_S))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not closing.done():
            closing.cancel()
            await asyncio.wait({closing})
            await pool.close(0.0)


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to `_Server`, and sleeps until its end instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.end = asyncio.Event()

    async def main_loop(self) -> None:
        await self.end.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _sole_instance(config: Config) -> Iterator[IO[str]]:
    """Hold the home's lock; the kernel frees it however this process ends."""
    with (config.home / "run" / "daemon.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Conflict(
                f"a daemon runs already here (process {lock.read().strip() or 'unknown'})",
                "`localai status` shows it, `localai stop` ends it",
            ) from error
        lock.truncate(0)
        yield lock


def _listen(config: Config) -> list[socket.socket]:
    config.socket.unlink(missing_ok=True)
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the first moment on: between bind and chmod others could connect.
    mask = os.umask(0o177)
    try:
        unix.bind(str(config.socket))
    except OSError as error:
        raise OutOfResources(
            f"the socket cannot be made: {error.strerror or error}", "set LOCALAI_HOME to a shorter, writable path"
        ) from error
    finally:
        os.umask(mask)
    sockets = [unix]
    for port in {config.port, config.ollama_port} - {0}:
        sockets += _tcp(config, port)
    for each in sockets:
        each.listen(_BACKLOG)
        each.setblocking(False)
    return sockets


def _tcp(config: Config, port: int) -> list[socket.socket]:
    names = ["127.0.0.1", "::1"] if config.loopback else [config.host]
    made: list[socket.socket] = []
    for name in names:
        family = socket.AF_INET6 if ":" in name else socket.AF_INET
        try:
            made.append(_bound(family, name, port))
        except OSError as error:
            # Machines without IPv6 are common; one loopback address is enough then.
            if made and family == socket.AF_INET6:
                continue
            raise Conflict(
                f"port {port} on {name} cannot be used: {error.strerror or error}",
                "stop what listens there, or choose another port (LOCALAI_PORT, LOCALAI_OLLAMA_PORT)",
            ) from error
    return made


def _bound(family: int, name: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((name, port))
    except OSError:
        made.close()
        raise
    return made


def _log_to(config: Config, *, foreground: bool) -> None:
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(config.daemon_log, maxBytes=5_000_000, backupCount=3, encoding="utf-8")
    ]
    if foreground:
        handlers.append(logging.StreamHandler())
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    # A full disk would have a traceback on standard error, and in the journal, for every line.
    logging.raiseExceptions = False
    logging.basicConfig(level=config.log_level.upper(), handlers=handlers, format=form, force=True)
    logging.getLogger("uvicorn").setLevel("WARNING")
