"""The self-test of a freshly loaded engine: does it survive a batch, are its logits sane, how many threads pay off.

Runs in the child, so that a library which lies about this CPU kills only the child; the daemon then notes the setting
as dead and loads with the next one.
"""

from __future__ import annotations

import time

import numpy as np

from backends.contract import Load
from backends.engine import Engine, Slice
from backends.errors import BackendError
from backends.idle_cores import IdleCores
from backends.threads import ThreadGovernor

_BATCH = 32
_DECODES = 6
_PAGED_BATCH = 2


def thread_counts(most: int) -> tuple[int, ...]:
    """Counts worth trying, ascending: 1, then halves of `most`, and `most` itself."""
    counts = {1, max(1, most)}
    while most > 2:
        most //= 2
        counts.add(most)
    return tuple(sorted(counts))


def prove(engine: Engine, order: Load) -> tuple[ThreadGovernor, dict[int, float]]:
    """Run the self-test if asked; return a governor, and the decode rates in token/s that it starts from.

    Raises BackendError when the logits are not finite.
    """
    info = engine.info()
    counts = thread_counts(order.threads) if "threads" in info.capabilities else (max(1, order.threads),)
    governor = ThreadGovernor(counts, IdleCores())
    if "generate" not in info.capabilities:
        return governor, {}
    rng = np.random.default_rng(0)
    # Random tokens would read most of a paged model, of which the first answer needs little.
    size = min(_PAGED_BATCH if order.weights else _BATCH, info.n_batch, info.n_ctx - 1 - _DECODES)
    prompt = rng.integers(0, info.n_vocab, size).tolist()
    if order.prove:
        logits = engine.step([Slice(0, prompt, 0, "last")])[0]
        if logits is None or not np.isfinite(logits).all():
            raise BackendError("the self-test gave logits that are not numbers", "this setting is not used again")
        engine.drop(0)
    known = {count: order.rates[count] for count in governor.counts if count in order.rates}
    if order.weights and len(known) < len(governor.counts):
        return governor, {}
    if len(known) < len(governor.counts):
        known = {count: _measure(engine, governor, count, prompt) for count in governor.counts}
    governor.threads = max(known, key=lambda count: known[count])
    engine.set_threads(governor.threads)
    return governor, known


def _measure(engine: Engine, governor: ThreadGovernor, count: int, prompt: list[int]) -> float:
    """Decode rate with `count` threads, in tokens per second; feeds the governor's step costs."""
    engine.set_threads(count)
    start = time.perf_counter()
    engine.step([Slice(0, prompt, 0, "last")])
    governor.learn(count, len(prompt), time.perf_counter() - start)
    readings = []
    for at in range(_DECODES):
        start = time.perf_counter()
        engine.step([Slice(0, prompt[:1], len(prompt) + at, "last")])
        readings.append(time.perf_counter() - start)
    engine.drop(0)
    # The first decodes warm caches and thread pools up; the median leaves them out.
    typical = sorted(readings)[_DECODES // 2]
    governor.learn(count, 1, typical)
    return 1.0 / typical
