"""What was measured of engines on this device: the points that predictions are fitted to and choices are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["load", "prefill", "decode", "embed"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that decide what a step costs.

    `weight_bytes` are the bytes of weights read for one token (of a mixture of experts: of the experts used; the output
    layer counts, the rows of the token embedding do not), `resident_bytes` all of them; `flops` counts two per weight
    used by a token outside the output layer, `head_flops` those of the output layer, needed only where logits are.
    `kv_values` are the values stored per token over all layers and heads (K and V), `attention_flops` the operations
    per token and token of depth.

    `head_bytes` is the output layer's part of `weight_bytes`, `head_type` the type of its numbers. `expert_bytes` are
    the bytes of all experts and `expert_flops` the part of `flops` that the used ones take, `experts_used` of
    `experts` per token and layer.
    Of the attention, the share `windowed` looks back `window` tokens at most. `activations` are the values that a token
    brings into and takes out of all matrices but the output layer; 0 where unknown.
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
    head_bytes: int = 0
    head_type: str = ""
    expert_bytes: int = 0
    expert_flops: int = 0
    experts: int = 0
    experts_used: int = 0
    window: int = 0
    windowed: float = 0.0
    activations: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured point: the median step of its kind.

    A step ran `tokens` new tokens of each of `sequences` sequences at `depth` tokens of context in `seconds`, with
    `cpu_s` CPU seconds over all threads. `build` is the engine library's label, `mode` see `Load.mode`. `at` is Unix
    seconds. The step gave the logits of one position per sequence. `offloaded` is the share of the layers that ran on
    a GPU.
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
    offloaded: float = 0.0
