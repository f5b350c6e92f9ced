"""Measures what each KV type costs with a model on this device: a child for each reads a fixed text, token by token.

Prompts are computed on other paths than answers, some with keys and values in full precision; so nothing is taken from
them. Starts children and writes the calibration store; what the readings mean is told by `kv_accuracy`.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from statistics import median

import msgspec

from backends.contract import Job, PromptLogprobs, TokenLogprob
from backends.errors import BackendError
from backends.handle import EngineHandle
from backends.kv_frames import KvGrant
from localai.agreement import PROSE
from localai.calibration_store import CalibrationStore, KvReading, Subject, identity
from localai.choice import Choice
from localai.errors import EngineFailed, ModelBroken
from localai.kv_accuracy import KV_WAYS, LEAST_TOKENS
from localai.laboratory import alone
from localai.ladder import climb
from localai.local_model import LocalModel
from localai.measuring import Steps
from localai.offers import backend, build_label, offers
from localai.orders import Orders
from localai.tested import Key, TestedSettings

MOST_TOKENS = 400
_READ_S = 8.0
"""Seconds that a child reads; slower ones read less of the text, but what a comparison needs."""
_LIMIT_S = 60.0
_N_CTX = 512
_AGAIN_S = 3600.0
"""Seconds after which what failed is tried once more."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One KV type of one engine that is to be measured."""

    choice: Choice
    subject: Subject
    kv_type: str

    def __str__(self) -> str:
        mode = f":{self.choice.mode}" if self.choice.mode else ""
        return f"{self.choice.backend}{mode} with {self.kv_type} KV"


class KvTrials:
    """Measures for one configuration on one device."""

    def __init__(
        self,
        orders: Orders,
        tested: TestedSettings,
        store: CalibrationStore,
        tokens: int = MOST_TOKENS,
        limit_s: float = _LIMIT_S,
    ) -> None:
        """`tokens` of the text are read at most, and `limit_s` seconds spent on each type."""
        self._tokens = tokens
        self._limit_s = limit_s
        self._orders = orders
        self._tested = tested
        self._store = store

    def next(self, model: LocalModel, since: float | None = None) -> Trial | None:
        """What is not known yet of `model`, None where everything is. Raises LocalaiError, OSError.

        What failed before `since`, in Unix seconds, is due again; without it, what failed an hour ago.
        """
        oldest = time.time() - _AGAIN_S if since is None else since
        device, digest = self._orders.device.fingerprint, identity(model)
        known = {(r.subject, r.kv_type): r for r in self._store.kv_readings(device, digest)}
        for name in (offer.backend for offer in offers(model) if not offer.problem and offer.backend in KV_WAYS):
            for place, (mode, kv_type) in enumerate(KV_WAYS[name]):
                if mode and (model.format != "gguf" or mode not in backend(name).tried):
                    continue
                subject = Subject(device, digest, name, build_label(name), mode)
                reading = known.get((subject, kv_type))
                if reading is None or (reading.problem and reading.at < oldest):
                    return Trial(Choice(model, name, _N_CTX, "", mode), subject, kv_type)
                if place == 0 and reading.problem:
                    break  # there is nothing to compare the others with
        return None

    async def run(self, trial: Trial, free: int) -> KvReading:
        """Measure within `free` bytes of memory and keep what was found, a failure too.

        Waits while another process measures. Raises OutOfResources where the model does not fit now.
        """
        async with alone(self._store):
            reading = await self._read(trial, free)
            await asyncio.to_thread(self._store.keep_kv, reading)
            return reading

    async def _read(self, trial: Trial, free: int) -> KvReading:
        # Types that a backend has no choice of are its own; what is ordered then means nothing to it.
        kv_type = trial.kv_type if trial.choice.backend == "llama.cpp" else ""
        plan = await asyncio.to_thread(self._orders.plan, trial.choice, free, kv_type)
        # With rates given the child measures none itself; what is known of the engine holds for all its KV types.
        rates = self._tested.threads(self._orders.key(trial.choice)) or {self._orders.threads: 1.0}
        order = msgspec.structs.replace(
            self._orders.order(trial.choice, plan),
            n_seq=1,
            kv=KvGrant(),
            rates=rates,
        )
        found = KvReading(subject=trial.subject, kv_type=trial.kv_type, at=round(time.time(), 1))
        steps = Steps()
        try:
            async with asyncio.timeout(self._limit_s):
                rung = await climb(
                    order,
                    self._key(trial),
                    self._tested,
                    log=self._orders.log_file(trial.choice.model),
                    on_stage=_ignore,
                    on_step=steps,
                    on_pid=steps.note_pid,
                )
                try:
                    return await _through(rung.handle, steps, found, self._tokens)
                finally:
                    rung.handle.kill()
                    await rung.handle.stop()
        except TimeoutError:
            return replace(found, problem=f"it was not measured within {self._limit_s:.0f} s")
        except (EngineFailed, ModelBroken, BackendError) as error:
            return replace(found, problem=error.message)

    def _key(self, trial: Trial) -> Key:
        """A death of a KV type says nothing of the engine's other settings."""
        key = self._orders.key(trial.choice)
        usual = trial.kv_type == KV_WAYS[trial.choice.backend][0][1]
        return key if usual else replace(key, model=f"{key.model} {trial.kv_type} KV")


async def _through(handle: EngineHandle, steps: Steps, found: KvReading, most: int) -> KvReading:
    """Let the child read the text as far as the time allows."""
    if "prompt_logprobs" not in handle.info.capabilities:
        return replace(found, problem="it tells no log-probabilities of a text")
    ids = (await handle.tokenize(PROSE, special=False, add_bos=True))[: min(most + 1, handle.info.n_ctx - 1)]
    job = Job(id=0, tokens=ids, max_tokens=0, prompt_logprobs=1, singly=True)
    scored: list[TokenLogprob] = []
    end = time.monotonic() + _READ_S
    async with aclosing(handle.run(job)) as events:
        async for event in events:
            if isinstance(event, PromptLogprobs):
                scored += event.tokens
                if time.monotonic() > end and len(scored) >= LEAST_TOKENS:
                    break
    known = [token for token in scored if token.logprob is not None]
    if len(known) < LEAST_TOKENS:
        return replace(found, problem=f"it read {len(known)} tokens only, too few to tell its accuracy")
    if not all(math.isfinite(token.logprob or 0.0) for token in known):
        return replace(found, problem="it gives probabilities that are not numbers")
    # The first steps find caches cold and thread pools asleep.
    late = steps.taken[len(steps.taken) // 2 :]
    return replace(
        found,
        ids=tuple(ids[: len(known) + 1]),
        surprises=tuple(round(-(token.logprob or 0.0), 5) for token in known),
        likeliest=tuple(token.top[0].id for token in known),
        step_s=round(median(record.t1 - record.t0 for record in late), 7),
        depth=round(median(record.shares[0].context for record in late)),
    )


def _ignore(_: str, __: float) -> None:
    pass
