"""Keys and values of each sequence in MLX arrays of its own, grown in steps. Knows lengths, not tokens.

Arrays are values in MLX: a fork shares them until one of the two writes.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

_STEP = 256


class MlxCells:
    """Sequences 0 to n_seq - 1; per layer keys and values of shape (1, kv_heads, capacity, head_dim)."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, n_seq: int, kind: Any) -> None:
        self._shape = (1, kv_heads, _STEP, head_dim)
        self._layers = layers
        self._kind = kind
        self._numpy = np.dtype(np.float16 if kind == mx.float16 else np.float32)
        self._held: list[list[list[mx.array]]] = [[] for _ in range(n_seq)]
        self.lengths = [0] * n_seq

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all layers."""
        return 2 * self._layers * self._shape[1] * self._shape[3] * self._numpy.itemsize

    def append(self, layer: int, seq: int, pos: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (n, kv_heads, head_dim) from position `pos` on; return all keys and values up to there.

        Lengths change in `wrote`, when the step is known to have succeeded.
        """
        if not self._held[seq]:
            self._held[seq] = [[mx.zeros(self._shape, self._kind) for _ in range(2)] for _ in range(self._layers)]
        end = pos + keys.shape[0]
        own = self._held[seq][layer]
        while own[0].shape[2] < end:
            own[:] = [mx.concatenate([part, mx.zeros(self._shape, self._kind)], axis=2) for part in own]
        for part, new in enumerate((keys, values)):
            own[part][:, :, pos:end] = new.transpose(1, 0, 2)[None]
        return own[0][:, :, :end], own[1][:, :, :end]

    def wrote(self, seq: int, length: int) -> None:
        self.lengths[seq] = length

    def arrays(self, seq: int) -> list[mx.array]:
        return [part for layer in self._held[seq] for part in layer]

    def trim(self, seq: int, pos: int) -> None:
        self.lengths[seq] = min(self.lengths[seq], pos)
        if self.lengths[seq] == 0:
            self._held[seq] = []

    def fork(self, source: int, target: int) -> None:
        # New handles: writing through one must not show in the other.
        self._held[target] = [[mx.array(part) for part in layer] for layer in self._held[source]]
        self.lengths[target] = self.lengths[source]

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        parts = (np.array(part[0, :, start:end]) for part in self.arrays(seq))
        return bytearray(b"".join(part.astype(self._numpy, copy=False).tobytes() for part in parts))

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        _, heads, _, dim = self._shape
        if start != self.lengths[seq] or len(block) != (end - start) * self.token_bytes:
            return False
        stored = np.frombuffer(block, self._numpy).reshape(self._layers, 2, heads, end - start, dim)
        for layer in range(self._layers):
            keys, values = (mx.array(part.swapaxes(0, 1)) for part in stored[layer])
            self.append(layer, seq, start, keys, values)
        mx.eval(*self.arrays(seq))
        self.lengths[seq] = end
        return True
