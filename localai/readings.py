"""What was measured of engines on this device: the points that predictions are fitted to and choices are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "prefill", "decode", "embed"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that decide what a step costs.

    `weight_bytes` are the bytes of weights read for one token (of a mixture of experts: of the experts used),
    `resident_bytes` all of them; `flops` counts two per weight used by a token, `head_flops` those of the output
    layer, needed only where logits are. `kv_values` are the values stored per token over all layers and heads (K and
    V), `attention_flops` the operations per token and token of depth.
    """

    architecture: str
    quant: str
    layers: int
    width: int
    weight_bytes: int
    resident_bytes: int
    flops: int
    head_flops: int
    kv_values: int
    attention_flops: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured point: the median step of its kind.

    A step ran `tokens` new tokens of each of `sequences` sequences at `depth` tokens of context in `seconds`, with
    `cpu_s` CPU seconds over all threads. `build` is the engine library's label, `mode` see `Load.mode`. `at` is Unix
    seconds.
    """

    backend: str
    build: str
    mode: str
    threads: int
    kv_type: str
    shape: Shape
    phase: Phase
    tokens: int
    depth: int
    sequences: int
    seconds: float
    cpu_s: float
    at: float
