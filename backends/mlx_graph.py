"""The forward pass of a llama, qwen2 or qwen3 decoder in MLX, over the tokens of several sequences at once.

Matrix products run over all tokens of a step together; attention runs over each sequence's own keys and values, so no
sequence sees padding or another's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import mlx.core as mx

from backends.arch import Arch, Role
from backends.convert_mlx import Layer, Weights
from backends.mlx_cells import MlxCells

VERSION = 1
"""To be raised with every change of what is computed."""

_Projected = Literal["q", "k", "v"]
_BIASES: Mapping[_Projected, Role] = {"q": "q_bias", "k": "k_bias", "v": "v_bias"}


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `end` of a step are of sequence `seq`, at positions from `pos` on."""

    seq: int
    first: int
    end: int
    pos: int


@partial(mx.compile, shapeless=True)
def _gated(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


class Decoder:
    """A model whose keys and values go to `cells`."""

    def __init__(self, arch: Arch, weights: Weights, cells: MlxCells) -> None:
        self._arch = arch
        self._weights = weights
        self._cells = cells
        self._scale = arch.head_dim**-0.5
        # MLX divides the position by these.
        self._periods = 1.0 / mx.array(weights.frequencies)

    def states(self, tokens: list[int], spans: Sequence[Span]) -> mx.array:
        """The last hidden states, normed, of shape (len(tokens), width); the cells hold the tokens afterwards."""
        positions = mx.array([span.pos + i for span in spans for i in range(span.end - span.first)], mx.int32)
        x = self._weights.embedding.rows(mx.array(tokens, mx.uint32))
        for index, layer in enumerate(self._weights.layers):
            x = x + self._attend(index, layer, self._norm(x, layer.vectors["attn_norm"]), spans, positions)
            x = x + self._feed(layer, self._norm(x, layer.vectors["ffn_norm"]))
        return self._norm(x, self._weights.norm)

    def logits(self, states: mx.array) -> mx.array:
        """(n, width) to (n, vocab)."""
        return self._weights.head.times(states)

    def _norm(self, x: mx.array, weight: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, weight, self._arch.eps)

    def _feed(self, layer: Layer, x: mx.array) -> mx.array:
        gate, up = layer.matrices["gate"].times(x), layer.matrices["up"].times(x)
        return layer.matrices["down"].times(_gated(gate, up))

    def _attend(self, index: int, layer: Layer, x: mx.array, spans: Sequence[Span], positions: mx.array) -> mx.array:
        arch = self._arch
        q = self._heads(layer, "q", x, arch.heads, positions)
        k = self._heads(layer, "k", x, arch.kv_heads, positions)
        v = self._project(layer, "v", x).reshape(-1, arch.kv_heads, arch.head_dim)
        outputs = []
        for span in spans:
            own = slice(span.first, span.end)
            keys, values = self._cells.append(index, span.seq, span.pos, k[own], v[own])
            queries = q[own].transpose(1, 0, 2)[None]
            mask = "causal" if span.end - span.first > 1 else None
            seen = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self._scale, mask=mask)
            outputs.append(seen[0].transpose(1, 0, 2).reshape(-1, arch.heads * arch.head_dim))
        return layer.matrices["o"].times(mx.concatenate(outputs) if len(outputs) > 1 else outputs[0])

    def _project(self, layer: Layer, role: _Projected, x: mx.array) -> mx.array:
        y = layer.matrices[role].times(x)
        bias = layer.vectors.get(_BIASES[role])
        return y if bias is None else y + bias

    def _heads(self, layer: Layer, role: Literal["q", "k"], x: mx.array, heads: int, positions: mx.array) -> mx.array:
        """Queries or keys, turned to their positions: (n, heads, head_dim)."""
        arch = self._arch
        y = self._project(layer, role, x).reshape(-1, heads, arch.head_dim)
        norm = layer.vectors.get("q_norm" if role == "q" else "k_norm")
        if norm is not None:
            y = self._norm(y, norm)
        # Every token is a batch of its own here, because each has a position of its own.
        turned = mx.fast.rope(
            y[:, :, None],
            arch.head_dim,
            traditional=arch.rope_interleaved,
            base=None,
            scale=1.0,
            offset=positions,
            freqs=self._periods,
        )
        return turned[:, :, 0]
