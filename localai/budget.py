"""How much memory a model needs, and how long a context fits. Pure: a header and free bytes in, figures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from backends.ggml_types import KvType
from backends.gguf_header import GgufHeader
from localai.errors import OutOfResources

MOST_CTX = 32_768
"""Tokens served at most unless asked for more: KV cells are allocated whole, and few conversations need more."""
LEAST_CTX = 512
_MARGIN = 0.08
_LEAST_MARGIN = 256 * 2**20
_PROCESS = 120 * 2**20
_MICRO_BATCH = 512
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Charge:
    """Bytes that a loaded engine takes: weights, KV cells, compute with the process itself."""

    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute


def margin(total: int) -> int:
    """Bytes of a memory of `total` that stay free for everything else, unless the user sets a budget."""
    return max(_LEAST_MARGIN, int(_MARGIN * total))


def charge(header: GgufHeader, n_ctx: int, kv_type: str) -> Charge:
    """What serving `n_ctx` tokens takes.

    Compute buffers hold the activations of one micro-batch, its attention mask and the logits of a step; the factors
    are the tensors alive at once in llama.cpp's graph of a dense transformer.
    """
    width = header.n_embd or 0
    inner = header.number("feed_forward_length") or 4 * width
    activations = _MICRO_BATCH * 4 * (6 * width + 3 * inner)
    compute = _PROCESS + activations + n_ctx * _MICRO_BATCH * 6 + _ROWS * 4 * (header.n_vocab or 0)
    kv = 0 if header.is_embedding else int(header.kv_bytes_per_token(cast(KvType, kv_type)) * n_ctx)
    return Charge(header.weight_bytes, kv, compute)


def served_context(header: GgufHeader, asked: int, free: int, kv_type: str) -> int:
    """Tokens to serve: `asked`, or min(trained, what fits in `free` bytes, 32,768) where 0 is asked.

    Raises OutOfResources with both numbers where even the asked (or the shortest) context does not fit.
    """
    trained = header.n_ctx_train or MOST_CTX
    if asked:
        _refuse_unless_fits(charge(header, asked, kv_type), asked, free)
        return asked
    n_ctx = min(trained, MOST_CTX)
    while n_ctx > LEAST_CTX and charge(header, n_ctx, kv_type).total > free:
        n_ctx = max(LEAST_CTX, n_ctx // 2)
    _refuse_unless_fits(charge(header, n_ctx, kv_type), n_ctx, free)
    return n_ctx


def _refuse_unless_fits(need: Charge, n_ctx: int, free: int) -> None:
    if need.total > free:
        raise OutOfResources(
            f"the model needs {gigabytes(need.total)} with a context of {n_ctx} tokens "
            f"(weights {gigabytes(need.weights)}, KV {gigabytes(need.kv)}), {gigabytes(max(free, 0))} are free",
            "take a smaller quantisation or context (--ctx), unload other models, or raise the budget (ram)",
        )


def gigabytes(count: int) -> str:
    """`count` bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.0f} MiB"
