"""Decoders on MLX: batches in, logits out. Runs GGUF files and mlx-lm folders of three families.

One thread owns all arrays; a step is one pass over the tokens of all its sequences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import mlx.core as mx
import numpy as np
from threadpoolctl import threadpool_limits

from backends.contract import Adapter, EngineInfo, Load
from backends.engine import CacheFull, Floats, Interrupt, Slice
from backends.errors import UnsupportedModel
from backends.mlx_cells import MlxCells
from backends.mlx_graph import VERSION, Decoder, Span
from backends.mlx_models import open_model
from backends.mlx_modes import mode_named

N_BATCH = 512
MAX_ROWS = 64
_CAPABILITIES = {"generate", "embed", "prompt_logprobs", "trim", "fork", "blocks"}


class MlxEngine:
    """A `engine.Engine` whose sequences share `load.n_ctx` cells."""

    def __init__(self, load: Load, progress: Callable[[str, float], None]) -> None:
        started = time.monotonic()
        model = open_model(load, progress)
        mode = mode_named(load.mode)
        arch = model.arch
        self.tokenizer = model.tokenizer
        self._host = mode.host
        self.set_threads(load.threads)
        kind = mx.float16 if mode.half else mx.float32
        self._cells = MlxCells(arch.layers, arch.kv_heads, arch.head_dim, load.n_seq, kind)
        self._decoder = Decoder(arch, model.weights, self._cells)
        self._n_seq, self._n_ctx = load.n_seq, load.n_ctx
        vocab = model.tokenizer
        self._info = EngineInfo(
            backend="mlx",
            version=version("mlx"),
            architecture=arch.family,
            description=model.description,
            n_ctx=load.n_ctx,
            n_ctx_train=arch.n_ctx_train,
            n_vocab=arch.vocab,
            n_embd=arch.width,
            n_seq=load.n_seq,
            n_batch=min(N_BATCH, load.n_ctx),
            max_rows=MAX_ROWS,
            weight_bytes=model.weights.bytes,
            kv_bytes=load.n_ctx * self._cells.token_bytes,
            compute_bytes=MAX_ROWS * arch.vocab * 4,
            chat_template=vocab.chat_template,
            bos=vocab.bos,
            eos=vocab.eos,
            add_bos=vocab.add_bos,
            fim=vocab.fim_tokens(),
            control_tokens=vocab.control_tokens(),
            capabilities=frozenset(_CAPABILITIES | ({"threads"} if mode.host else set())),
            settings={
                "mode": load.mode,
                "device": str(mx.default_device()),
                "kv_type": "f16" if mode.half else "f32",
                "threads": load.threads,
            },
            load_stages={"weights": round(time.monotonic() - started, 4)},
            kv_identity={
                "engine": f"mlx {version('mlx')} numpy {np.__version__}",
                "graph": f"{VERSION} {load.mode}",
                "kv": "f16" if mode.half else "f32",
                "device": str(mx.default_device()),
            },
        )

    def info(self) -> EngineInfo:
        return self._info

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        """See `engine.Engine.step`; runs to its end."""
        self._check(batch)
        growing = {part.seq: part.pos + len(part.tokens) for part in batch}
        if sum(growing.get(seq, length) for seq, length in enumerate(self._cells.lengths)) > self._n_ctx:
            raise CacheFull
        spans: list[Span] = []
        tokens: list[int] = []
        for part in batch:
            spans.append(Span(part.seq, len(tokens), len(tokens) + len(part.tokens), part.pos))
            tokens += part.tokens
        states = self._decoder.states(tokens, spans)
        results = self._wanted(batch, spans, states)
        for seq, length in growing.items():
            self._cells.wrote(seq, length)
        return results

    def _wanted(self, batch: Sequence[Slice], spans: Sequence[Span], states: mx.array) -> list[Floats | None]:
        rows: list[int] = []
        for part, span in zip(batch, spans, strict=True):
            rows += {"last": range(span.end - 1, span.end), "all": range(span.first, span.end)}.get(part.want, ())
        written = [array for part in batch for array in self._cells.arrays(part.seq)]
        logits = self._decoder.logits(states[mx.array(rows)]).astype(mx.float32) if rows else None
        # One evaluation for all: what is not asked for here would be computed in a later step's time.
        mx.eval(*written, states, *([logits] if logits is not None else []))
        found = None if logits is None else np.array(logits)
        results: list[Floats | None] = []
        at = 0
        for part, span in zip(batch, spans, strict=True):
            if part.want == "embed":
                own = states[span.first : span.end].astype(mx.float32).sum(axis=0, keepdims=True)
                results.append(np.array(own))
            elif part.want == "none" or found is None:
                results.append(None)
            else:
                size = len(part.tokens) if part.want == "all" else 1
                results.append(found[at : at + size])
                at += size
        return results

    def _check(self, batch: Sequence[Slice]) -> None:
        total = sum(len(part.tokens) for part in batch)
        rows = sum(len(p.tokens) if p.want in ("all", "embed") else p.want == "last" for p in batch)
        if not 0 < total <= self._info.n_batch or rows > MAX_ROWS:
            raise ValueError(f"a step of {total} tokens and {rows} rows is over the limit of this engine")
        for part in batch:
            if not 0 <= part.seq < self._n_seq or not part.tokens or part.pos != self._cells.lengths[part.seq]:
                raise ValueError(f"no such place: sequence {part.seq}, position {part.pos}")
        if len({part.seq for part in batch}) < len(batch):
            raise ValueError("a sequence stands twice in one step")

    # -- sequences

    def trim(self, seq: int, pos: int) -> bool:
        self._cells.trim(self._seq(seq), pos)
        return True

    def fork(self, source: int, target: int) -> None:
        self._cells.fork(self._seq(source), self._seq(target))

    def drop(self, seq: int) -> None:
        self._cells.trim(self._seq(seq), 0)

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        return self._cells.export_block(self._seq(seq), start, end)

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        return self._cells.import_block(self._seq(seq), start, end, block)

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        if adapters:
            raise UnsupportedModel("the mlx backend runs no adapters", "llama.cpp does: choose that backend")

    def _seq(self, seq: int) -> int:
        if not 0 <= seq < self._n_seq:
            raise ValueError(f"no sequence {seq}: there are {self._n_seq}")
        return seq

    def set_threads(self, threads: int) -> None:
        """How many numpy multiplies with; MLX chooses its own."""
        if self._host:
            threadpool_limits(max(1, threads), user_api="blas")

    def close(self) -> None:
        mx.clear_cache()
