"""From the fastest engine settings down to safe ones: start a child, keep what survives, remember what died.

A setting that has not been proven here runs its self-test in the child while loading; if the child dies of it, that is
noted for this device and library version, and the next setting is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from backends.contract import Load
from backends.errors import BackendError, EngineDied
from backends.handle import EngineHandle, OnPid, OnStep
from localai.errors import OutOfResources, from_backend
from localai.tested import Key, Setting, TestedSettings, Verdict
from localai.wait_policy import WaitPolicy, best_policy

_log = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]

CANDIDATES = (Setting.of(extra_bufts=True), Setting.of(extra_bufts=False))
"""llama.cpp's, fastest first. Repacked weights (and AMX tiles with them) are what some virtual machines lie about."""
_PLAIN = (Setting.of(),)


def candidates(backend: str) -> tuple[Setting, ...]:
    """The settings of a backend worth trying, fastest first; `echo` stands in for llama.cpp."""
    return CANDIDATES if backend in ("llama.cpp", "echo") else _PLAIN


@dataclass(frozen=True, slots=True)
class Rung:
    """A running engine, and the setting that it survived."""

    handle: EngineHandle
    key: Key
    setting: Setting


def _worth_trying(order: Load) -> tuple[Setting, ...]:
    """Repacking copies the weights, so it is out of the question where not even one copy of them fits."""
    found = candidates(order.backend)
    return found[-1:] if order.weights else found


def _ignore_pid(_: int) -> None:
    pass


async def climb(
    order: Load,
    key: Key,
    tested: TestedSettings,
    *,
    log: Path,
    on_stage: OnStage,
    on_step: OnStep,
    on_pid: OnPid = _ignore_pid,
) -> Rung:
    """Load `order` with the best setting that lives, and the wait policy that was measured best here.

    `order.rates` are used where given, else what is remembered of the device. Raises LocalaiError: the child's reason,
    or that all settings died.
    """
    policy = best_policy(tested, key) or WaitPolicy("as built")
    while True:
        setting = tested.best(key, _worth_trying(order))
        known = tested.verdict(key, setting)
        rates = order.rates or tested.threads(key)
        attempt = msgspec.structs.replace(order, prove=known is None, rates=rates, **dict(setting.values))
        try:
            handle = await EngineHandle.start(
                attempt, log=log, env=policy.environment, on_stage=on_stage, on_step=on_step, on_pid=on_pid
            )
        except EngineDied as death:
            if not _blame(death, known, setting, key, tested):
                raise from_backend(death) from death
            continue
        except BackendError as error:
            raise from_backend(error) from error
        if known is None:
            _remember(partial(tested.record, key, setting, Verdict("survived")))
        if handle.rates and not order.rates and not order.weights:
            _remember(partial(tested.record_threads, key, handle.rates))
        return Rung(handle, key, setting)


def _remember(write: Callable[[], object]) -> None:
    """What cannot be written down is tested again next time; the engine that runs now is none the worse for it."""
    try:
        write()
    except OutOfResources as error:
        _log.warning("the self-test is not remembered: %s", error.message)


def _blame(death: EngineDied, known: Verdict | None, setting: Setting, key: Key, tested: TestedSettings) -> bool:
    """Note a death during loading; True where another setting is worth a try."""
    if known is not None or death.step != "self-test":
        return tested.record(key, setting, Verdict("died", death.cause, "load"))
    _log.warning("%s died in its self-test with %s (%s); trying without", key.engine, setting, death.cause)
    return tested.record(key, setting, Verdict("died", death.cause, "self-test"))
