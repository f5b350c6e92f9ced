"""What of a model stays on this machine where RPC workers of llama.cpp take its layers. Pure.

Headers of its parts, a charge for the whole and offloaded layers enter, a charge for this machine leaves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backends.gguf_header import GgufHeader
from localai.budget import MOST_CTX, Charge

_LAYER = re.compile(r"blk\.\d+\.")
_HEAD = ("output.", "output_norm.")
_USUAL_CTX = 4096
"""Served unless asked for more where the model does not fit here: what workers have is not known beforehand."""


def local_charge(headers: Sequence[GgufHeader], whole: Charge, gpu_layers: int) -> Charge:
    """`gpu_layers` of the model leave, -1 for all, which takes the output layer along.

    The table of embeddings never does. Layers that leave take their keys and values with them; compute buffers are
    needed on both sides.
    """
    layers = headers[0].number("block_count") or 1
    away = layers if gpu_layers < 0 else min(gpu_layers, layers)
    tensors = [tensor for header in headers for tensor in header.tensors]
    within = sum(tensor.size for tensor in tensors if _LAYER.match(tensor.name))
    head = sum(tensor.size for tensor in tensors if tensor.name.startswith(_HEAD)) if gpu_layers < 0 else 0
    moved = within * away // layers + head
    return Charge(max(0, whole.weights - moved), whole.kv * (layers - away) // layers, whole.compute)


def usual_context(header: GgufHeader, asked: int) -> int:
    """Tokens to serve where the model is too large for this machine alone."""
    return asked or min(header.n_ctx_train or MOST_CTX, _USUAL_CTX)
