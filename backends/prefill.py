"""How much prefill a step carries, and whose. Pure: sequences, measured costs and limits in, slices out."""

from __future__ import annotations

from backends.contract import EngineInfo, Priority
from backends.costs import StepCosts
from backends.engine import Slice, Want
from backends.sequences import Sequence

_LEVEL: dict[Priority, int] = {"interactive": 0, "normal": 1, "background": 2}
_AGE_S = 10.0
"""Seconds without service that lift a sequence by one priority level, so that none starves."""

GAP = 4.0
"""A step that carries prefill may take this many times the decode-only step: bounds the gap between others' tokens."""

_WORTH = 8
"""Prefill tokens that a step beside others must be able to carry: with fewer, a step of its own costs less in all."""

_MIXED_S = 0.15
"""Most seconds of a step that others decode in, however dear their own part is."""

SHORT_STEP = 64
"""Prefill tokens of a step with nobody decoding, at least: from here on the CPU's attention kernel shares its loads
among queries, and at a depth of 2,048 tokens smaller steps cost half as much again per token."""

LONG_STEP_S = 2.0
"""Seconds of a step that can be given up."""

BURST_S = 0.9
"""Most seconds of a prefill step of its own while others wait to decode, as far as SHORT_STEP allows."""

SPACING = 21
"""Decode-only steps between two such steps: the others' 95th percentile gap never sees them."""


def urgency(sequence: Sequence, now: float) -> tuple[float, float]:
    """Sort key, smallest first: priority level less the levels gained by waiting, then age."""
    return _LEVEL[sequence.job.priority] - (now - sequence.last_served) / _AGE_S, sequence.submitted


def outranks(sequence: Sequence, others: list[Sequence]) -> bool:
    """True where the priority of `sequence` is above that of all `others`."""
    return all(_LEVEL[sequence.job.priority] < _LEVEL[other.job.priority] for other in others)


def wanted(sequence: Sequence, ends_prompt: bool) -> Want:
    """What the engine must return for a prefill slice of `sequence`."""
    if sequence.job.kind == "embed":
        return "embed"
    if sequence.job.prompt_logprobs is not None and sequence.prompt_done is None:
        return "all"
    return "last" if ends_prompt and (sequence.generated or sequence.job.max_tokens != 0) else "none"


def plan_prefill(
    sequences: list[Sequence], decoding: int, costs: StepCosts, info: EngineInfo, step_seconds: float
) -> list[tuple[Sequence, Slice]]:
    """Slices for `sequences`, most urgent first, beside `decoding` tokens in the same step.

    The step stays within `step_seconds`, or within GAP decode-only steps where others are decoding, as far as `costs`
    can tell; [] where that leaves too little to be worth it. A step that reads states needs a row for every token, so
    there the row limit is the token limit.
    """
    if not sequences:
        return []
    # The first sequence gets the most, so the step is about as deep as its own position.
    room = costs.largest(_limit(decoding, costs, step_seconds), info.n_batch, sequences[0].pos + 1) - decoding
    if decoding and room < min(_WORTH, sequences[0].remaining):
        return []
    room = min(room if decoding else max(SHORT_STEP, room), info.n_batch - decoding)
    whole = "whole_prompt" in info.capabilities
    plan: list[tuple[Sequence, Slice]] = []
    rows = decoding
    embedding = False
    for sequence in sequences:
        embeds = sequence.job.kind == "embed"
        if plan and embeds != embedding:
            continue
        if outranks(sequences[0], [sequence]):
            break
        reads_all = embeds or wanted(sequence, ends_prompt=False) == "all"
        limit = min(room, info.max_rows - rows) if reads_all else room
        count = sequence.remaining if whole else min(sequence.remaining, limit, 1 if sequence.job.singly else limit)
        if count <= 0 or (whole and plan and count > limit):
            break
        want = wanted(sequence, ends_prompt=count == sequence.remaining)
        assert sequence.seq is not None
        part = Slice(sequence.seq, sequence.tokens[sequence.pos : sequence.pos + count], sequence.pos, want)
        plan.append((sequence, part))
        embedding = embeds
        room -= count
        rows += count if reads_all else 1
    return plan


def _limit(decoding: int, costs: StepCosts, step_seconds: float) -> float:
    alone = costs.estimate(decoding) if decoding else None
    return step_seconds if alone is None else max(min(GAP * alone, _MIXED_S), 1.5 * alone)
