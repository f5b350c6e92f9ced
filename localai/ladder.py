"""From the fastest engine settings down to safe ones: start a child, keep what survives, remember what died.

A setting that has not been proven here runs its self-test in the child while loading; if the child dies of it, that is
noted for this device and library version, and the next setting is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from backends.contract import Load
from backends.errors import BackendError, EngineDied
from backends.handle import EngineHandle, OnStep
from localai.errors import OutOfResources, from_backend
from localai.tested import Key, Setting, TestedSettings, Verdict
from localai.wait_policy import POLICIES, WaitPolicy, best_policy, policy_key

_log = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]

CANDIDATES = (Setting.of(extra_bufts=True), Setting.of(extra_bufts=False))
"""Fastest first. Repacked weights (and AMX tiles with them) are what some virtual machines lie about."""


_QUIET_S = 1.5
"""A self-test longer than this ran beside busy neighbours; its figures would mislead, and so would a comparison."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A running engine, and the setting that it survived."""

    handle: EngineHandle
    key: Key
    setting: Setting


async def climb(
    order: Load,
    key: Key,
    tested: TestedSettings,
    *,
    log: Path,
    compare: bool,
    on_stage: OnStage,
    on_step: OnStep,
) -> Rung:
    """Load `order` with the best setting that lives; `compare` allows a first load to measure the wait policies.

    Raises LocalaiError: the child's reason, or that all settings died.
    """

    async def start(policy: WaitPolicy, attempt: Load) -> EngineHandle:
        return await EngineHandle.start(attempt, log=log, env=policy.environment, on_stage=on_stage, on_step=on_step)

    while True:
        setting = tested.best(key, CANDIDATES)
        known = tested.verdict(key, setting)
        policy = best_policy(tested, key)
        attempt = msgspec.structs.replace(order, prove=known is None, rates=tested.threads(key), **dict(setting.values))
        try:
            handle = await start(policy or POLICIES[0], attempt)
        except EngineDied as death:
            if not _blame(death, known, setting, key, tested):
                raise from_backend(death) from death
            continue
        except BackendError as error:
            raise from_backend(error) from error
        if known is None:
            _remember(partial(tested.record, key, setting, Verdict("survived")))
        if policy is None and compare and handle.rates and handle.stages["self-test"] < _QUIET_S:
            handle = await _compare_policies(handle, attempt, key, tested, start)
        if handle.rates:
            _remember(partial(tested.record_threads, key, handle.rates))
        return Rung(handle, key, setting)


async def _compare_policies(
    first: EngineHandle,
    attempt: Load,
    key: Key,
    tested: TestedSettings,
    start: Callable[[WaitPolicy, Load], Awaitable[EngineHandle]],
) -> EngineHandle:
    """Load once more under each other wait policy, note what each decodes, and keep the fastest engine."""
    best = first
    _remember(partial(tested.record_threads, policy_key(key, POLICIES[0]), first.rates))
    for policy in POLICIES[1:]:
        try:
            other = await start(policy, msgspec.structs.replace(attempt, prove=False, rates={}))
        except BackendError as error:
            _log.warning("wait policy %s could not be measured: %s", policy.name, error.message)
            continue
        _remember(partial(tested.record_threads, policy_key(key, policy), other.rates))
        slower, best = sorted((best, other), key=lambda handle: max(handle.rates.values()))
        await slower.stop()
    return best


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
