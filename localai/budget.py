"""How much memory a model needs on a backend, and how long a context fits.

Pure: a header or `Sizes` and free bytes enter, figures leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from backends.ggml_types import KV_TYPES, KvType
from backends.gguf_header import GgufHeader
from localai.errors import OutOfResources

MOST_CTX = 32_768
"""Tokens served at most unless asked for more: KV cells are allocated whole, and few conversations need more."""
LEAST_CTX = 512
_MARGIN = 0.08
_LEAST_MARGIN = 256 * 2**20
_MOST_MARGIN = 0.125
"""Share of a small memory that the margin is at most: a container of 300 MB would have none left."""
_PROCESS = 120 * 2**20
_MICRO_BATCH = 512
_ROWS = 64


_COPIES = {"onnx": 2.0, "onnx:prefill8": 4.0, "onnx:float": 2.5, "mlx": 1.5, "mlx:host": 8.0}
"""Copies of the weights that a backend, or one of its modes, holds where it is not one: what its kernels repack, the
tensors that stand twice while it loads, and 4 bytes for each 4-bit weight."""
_KV_TYPE = {"onnx": "f32", "mlx": "f32", "mlx:half": "f16"}
"""What backends store keys and values in that do not take the configured type."""
_KV_COPIES = {"onnx:kv8": 1.25}
"""Times that type, where there is more: 8 bits for all sequences, and float32 for the one whose prompt is computed."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What memory depends on, of a model that has no GGUF header. `kv_values` are stored per token over all layers."""

    weights: int
    kv_values: int
    width: int
    inner: int
    vocab: int
    trained: int


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
    return max(min(_LEAST_MARGIN, int(_MOST_MARGIN * total)), int(_MARGIN * total))


def charge(
    model: GgufHeader | Sizes,
    n_ctx: int,
    kv_type: str,
    backend: str = "llama.cpp",
    mode: str = "",
    kv_bytes: int | None = None,
) -> Charge:
    """What serving `n_ctx` tokens takes, `kv_bytes` of it for keys and values where that is set beforehand.

    Compute buffers hold the activations of one micro-batch, its attention mask and the logits of a step; the factors
    are the tensors alive at once in llama.cpp's graph of a dense transformer. Backends whose KV grows on demand are
    charged for all of it, because it will be asked for.
    """
    way = f"{backend}:{mode}" if mode else backend
    stored = cast(KvType, _KV_TYPE.get(way, _KV_TYPE.get(backend, kv_type)))
    if isinstance(model, Sizes):
        weights, width, inner, vocab = model.weights, model.width, model.inner, model.vocab
        kv = int(model.kv_values * KV_TYPES[stored].size / KV_TYPES[stored].block * n_ctx)
    else:
        weights, width, vocab = model.weight_bytes, model.n_embd or 0, model.n_vocab or 0
        inner = model.number("feed_forward_length") or 4 * width
        kv = 0 if model.is_embedding else int(model.kv_bytes_per_token(stored) * n_ctx)
    kv = int(_KV_COPIES.get(way, 1.0) * kv) if kv_bytes is None else kv_bytes
    activations = _MICRO_BATCH * 4 * (6 * width + 3 * inner)
    compute = _PROCESS + activations + n_ctx * _MICRO_BATCH * 6 + _ROWS * 4 * vocab
    return Charge(int(_COPIES.get(way, _COPIES.get(backend, 1.0)) * weights), kv, compute)


def served_context(
    model: GgufHeader | Sizes,
    asked: int,
    free: int,
    kv_type: str,
    backend: str = "llama.cpp",
    mode: str = "",
    kv_bytes: int | None = None,
) -> int:
    """Tokens to serve: `asked`, or min(trained, what fits in `free` bytes, 32,768) where 0 is asked.

    Raises OutOfResources with both numbers where even the asked (or the shortest) context does not fit.
    """
    trained = (model.trained if isinstance(model, Sizes) else model.n_ctx_train) or MOST_CTX
    if asked:
        _refuse_unless_fits(charge(model, asked, kv_type, backend, mode, kv_bytes), asked, free)
        return asked
    n_ctx = min(trained, MOST_CTX)
    while n_ctx > LEAST_CTX and charge(model, n_ctx, kv_type, backend, mode, kv_bytes).total > free:
        n_ctx = max(LEAST_CTX, n_ctx // 2)
    _refuse_unless_fits(charge(model, n_ctx, kv_type, backend, mode, kv_bytes), n_ctx, free)
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
