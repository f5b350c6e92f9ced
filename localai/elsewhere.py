"""What the doctor says of other machines: upstreams and RPC workers that are set, and whether they answer.

Settings and the catalogue enter, problems leave. Sends no prompt; an upstream is asked for its list of models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from localai.config import Config
from localai.doctor import Problem
from localai.engine_build import EngineBuild, rebuild_command
from localai.errors import LocalaiError
from localai.library import Library
from localai.rpc_workers import problem_of
from localai.upstreams.spec import UpstreamSpec, key_of

_LOOK_S = 3.0


def problems_elsewhere(config: Config, library: Library, build: EngineBuild | None) -> list[Problem]:
    """All that is wrong; takes three seconds where a machine is silent."""
    return asyncio.run(_all(config, library, build))


async def _all(config: Config, library: Library, build: EngineBuild | None) -> list[Problem]:
    specs = library.catalog.upstreams
    workers = dict.fromkeys((*config.rpc, *(worker for spec in library.catalog.specs for worker in spec.rpc)))
    found = await asyncio.gather(*(_upstream(spec, library) for spec in specs), _workers(tuple(workers), build))
    return [problem for problems in found for problem in problems]


async def _upstream(spec: UpstreamSpec, library: Library) -> list[Problem]:
    from localai.upstreams.client import UpstreamClient, listed

    found, name = [], f"the upstream {spec.name!r}"
    if spec.exposed:
        what = f"{name} is spoken to unencrypted ({spec.host})"
        found.append(Problem("warning" if spec.key_source else "note", what, "use https, or a network that you trust"))
    if spec.api_key_plaintext:
        hint = "move it to the keyring (api_key_keyring) or the environment (api_key_env)"
        found.append(Problem("warning", f"the key of {name} is in models.toml, in plain text", hint))
    try:
        if spec.fallback:
            await asyncio.to_thread(library.resolve, spec.fallback)
    except LocalaiError as error:
        found.append(Problem("warning", f"the fallback of {name} cannot be used: {error.message}", error.hint))
    client = UpstreamClient(spec)
    try:
        known = await listed(client, await asyncio.to_thread(key_of, spec), _LOOK_S)
    except LocalaiError as error:
        found.append(Problem("warning", f"{name} ({spec.host}): {error.message}", error.hint))
    else:
        missing = sorted(set(spec.models) - set(known))
        if missing:
            found.append(Problem("warning", f"{name} has no model {missing[0]!r}", "correct its entry in models.toml"))
    finally:
        await client.close()
    return found


async def _workers(workers: Sequence[str], build: EngineBuild | None) -> list[Problem]:
    if workers and build is not None and not build.rpc:
        what = "RPC workers are set, but the installed llama.cpp was built without RPC"
        return [Problem("error", what, rebuild_command("-DGGML_RPC=ON", build.version))]
    answers = await asyncio.gather(*(problem_of(worker) for worker in workers))
    hint = "start ggml-rpc-server there; until it answers, models run on this machine alone"
    return [
        Problem("warning", f"no RPC worker answers at {worker} ({why})", hint)
        for worker, why in zip(workers, answers, strict=True)
        if why
    ]
