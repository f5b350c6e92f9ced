"""Loads a model over RPC workers: the best known settings of this device, and no verdict on them whatever happens.

A death here tells of another machine as likely as of this one, so it must not turn a setting off.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from backends.contract import Load
from backends.errors import BackendError, EngineDied, MissingExtra
from backends.handle import EngineHandle, OnStage, OnStep
from localai.engine_build import engine_build, rebuild_command
from localai.errors import BadRequest, from_backend
from localai.ladder import Rung, candidates
from localai.rpc_workers import Workers
from localai.tested import Key, TestedSettings


async def spread(
    order: Load, workers: Workers, key: Key, tested: TestedSettings, *, log: Path, on_stage: OnStage, on_step: OnStep
) -> Rung:
    """Start a child that uses `workers`. Raises EngineDied where it dies, BadRequest where llama.cpp has no RPC."""
    setting = tested.best(key, candidates(key.engine))
    rates = order.rates or tested.threads(key)
    attempt = msgspec.structs.replace(order, rpc=workers.endpoints, rates=rates, **dict(setting.values))
    try:
        handle = await EngineHandle.start(attempt, log=log, on_stage=on_stage, on_step=on_step)
    except EngineDied:
        raise
    except MissingExtra as error:
        build = await asyncio.to_thread(engine_build)
        command = rebuild_command("-DGGML_RPC=ON", build.version)
        hint = f"leave rpc out, or build it again: {command}"
        raise BadRequest(f"{error.message}, and `rpc` is set", hint) from error
    except BackendError as error:
        raise from_backend(error) from error
    return Rung(handle, key, setting)
