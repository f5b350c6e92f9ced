"""What is kept of one answered question, and of what surrounds a run. No prompt and no answer text."""

from __future__ import annotations

from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True, tag="row"):
    """One item answered by one configuration. Times are milliseconds; unknown joules are None, with the `reason`.

    `seconds` are of the whole request, `error` the code of what went wrong ('' nothing), `cut` that the answer was
    ended by its token limit. `joules` are marginal.
    """

    config: str
    item: str
    category: str
    round: int
    correct: bool
    seconds: float
    joules: float | None = None
    prefill_joules: float | None = None
    decode_joules: float | None = None
    idle_joules: float | None = None
    predicted_joules: float | None = None
    cpu_seconds: float | None = None
    quality: str = "none"
    method: str | None = None
    scope: tuple[str, ...] = ()
    uncertainty: float | None = None
    reason: str = ""
    ttft_ms: float | None = None
    decode_tps: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    likelihood_by_length: bool | None = None
    cut: bool = False
    error: str = ""


class Block(msgspec.Struct, frozen=True, kw_only=True, tag="block"):
    """One round of one configuration is complete. `threads` and bytes are the engine's own; `warmup` its answers.

    `steady` tells whether the rate had settled when the questions began.
    """

    config: str
    round: int
    seconds: float
    warmup: int
    steady: bool
    threads: int | None = None
    peak_bytes: int | None = None
    foreign_cores: float | None = None


class Idle(msgspec.Struct, frozen=True, kw_only=True, tag="idle"):
    """The machine with its engines loaded and nothing to do: watts by sensor; None with the `reason`."""

    when: str
    seconds: float
    watts: dict[str, float | None]
    busy_cores: float
    reason: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="head"):
    """The first line of a journal: what the run is of. `plan` is its digest."""

    format: int
    plan: str
    started: float
    suite: dict[str, Any]
    configurations: list[dict[str, Any]]
    rounds: int
    surroundings: dict[str, Any]


class Resumed(msgspec.Struct, frozen=True, kw_only=True, tag="resumed"):
    """The run goes on after an interruption; rows of a block that was not complete count no more."""

    at: float


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The last line: the run is complete."""

    finished: float


Entry = Head | Row | Block | Idle | Resumed | End
