"""GGUF through llama.cpp's low-level functions: batches in, logits out.

Misuse of the library aborts the process, so every sequence number, position and batch size is checked here first.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from backends.contract import Adapter, EngineInfo, Load
from backends.engine import CacheFull, Floats, Interrupt, Slice, StepInterrupted
from backends.errors import BackendError, ModelFileError, OutOfMemory, UnsupportedModel
from backends.llama_adapters import LlamaAdapters
from backends.llama_batch import Batch
from backends.llama_rpc import add_workers
from backends.llama_vocab import LlamaVocab
from backends.paging_report import WeightsReport

N_BATCH = 512
MAX_OUTPUTS = 64
"""Rows of logits or embeddings per step; more would only grow the compute buffer by n_vocab floats a row."""

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
_LOG_DEBUG, _LOG_ERROR = 1, 4
_ABORTED = 2

_INSTALLED: list[Any] = []
"""The callback that the library calls, which it goes on to do after the engine is gone."""


class _Log:
    """Keeps the library's last lines: its error texts are the only reasons that it gives."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=400)
        self.errors: deque[str] = deque(maxlen=20)
        self._callback = llama.llama_log_callback(self._take)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))
        _INSTALLED[:] = [self._callback]

    def _take(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if line and level != _LOG_DEBUG:
            self.lines.append(line)
            if level == _LOG_ERROR:
                self.errors.append(line)

    def mebibytes(self, pattern: str) -> int:
        """The sum over the lines of `pattern`'s one group, in bytes."""
        found = (re.search(pattern, line) for line in self.lines)
        return int(sum(float(m.group(1)) for m in found if m) * 2**20)

    def newest(self) -> str:
        return re.sub(r"/\S+/", "", self.errors[-1]) if self.errors else "llama.cpp gave no reason"

    def reason(self) -> str:
        lines = [line for line in self.errors if "failed to load model" not in line]
        return re.sub(r"/\S+/", "", lines[0]) if lines else "llama.cpp gave no reason"


class LlamaCppEngine:
    """A `engine.Engine` over one llama.cpp context with a unified KV cache of `load.n_ctx` cells."""

    def __init__(self, load: Load, progress: Callable[[str, float], None]) -> None:
        self._log = _Log()
        self._stages: dict[str, float] = {}
        self._started = time.monotonic()
        llama.llama_backend_init()
        if load.rpc:
            add_workers(load.rpc)
        self._model = self._load_model(load, progress)
        self._mark("weights")
        progress("context", 1.0)
        self.tokenizer = LlamaVocab(llama.llama_model_get_vocab(self._model))
        self._mark("vocabulary")
        self._encoder_only = llama.llama_model_has_encoder(self._model) or not self._meta_flag(
            "attention.causal", default=True
        )
        self._context = self._make_context(load)
        self._memory = llama.llama_get_memory(self._context)
        self._adapters = LlamaAdapters(self._model, self._context, Path(load.path), self._log.newest)
        self._mark("context")
        self._load = load
        self._n_seq = self._scratch = load.n_seq
        self._threads = load.threads
        self._n_embd: int = llama.llama_model_n_embd(self._model)
        self._embedding_on = self._encoder_only
        self._batch = Batch(self._n_batch)
        self._info = self._describe(load)

    # -- loading

    def _mark(self, stage: str) -> None:
        now = time.monotonic()
        self._stages[stage] = round(now - self._started, 4)
        self._started = now

    def _load_model(self, load: Load, progress: Callable[[str, float], None]) -> Any:
        params = llama.llama_model_default_params()
        params.use_extra_bufts = load.extra_bufts and not load.weights
        params.n_gpu_layers = load.gpu_layers

        def report(fraction: float, _: Any) -> bool:
            progress("weights", fraction)
            return True

        params.progress_callback = llama.llama_progress_callback(report)
        self._pager: Any = None
        if not load.weights:
            return self._opened(load.path, params)
        from backends.lazy_mapping import unread  # Linux only, as is paging
        from backends.paging import Pager

        with unread(Path(llama.__file__).parent / "lib" / "libllama.so"):
            model = self._opened(load.path, params)
        self._mark("mapping")
        self._pager = Pager(Path(load.path), load.weights, lambda part: progress("weights", part))
        return model

    def _opened(self, path: str, params: Any) -> Any:
        model = llama.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise _load_error(self._log.reason())
        return model

    def _meta_flag(self, key: str, *, default: bool) -> bool:
        value = self._meta(f"{self._meta('general.architecture')}.{key}")
        return default if value == "" else value == "true"

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(1 << 12)
        count = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if count >= 0 else ""

    def _make_context(self, load: Load) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = load.n_ctx
        # An encoder's micro-batch must hold the longest text, and divide by its sequences: the library asserts it.
        self._n_batch = load.n_ctx + -load.n_ctx % 256 if self._encoder_only else min(N_BATCH, load.n_ctx)
        params.n_batch = params.n_ubatch = self._n_batch
        # One more than are served, to take blocks out of sequences and put them in; an encoder has none.
        params.n_seq_max = 1 << (load.n_seq - 1).bit_length() if self._encoder_only else load.n_seq + 1
        params.kv_unified = True
        params.n_outputs_max = self._n_batch if self._encoder_only else min(max(MAX_OUTPUTS, load.n_seq), self._n_batch)
        params.n_threads = params.n_threads_batch = load.threads
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.type_k = params.type_v = _KV_TYPES[load.kv_type]
        params.no_perf = True
        if self._pager is not None:
            params.n_batch = params.n_ubatch = self._n_batch = min(self._n_batch, self._pager.batch)
            if self._pager.helps:
                params.cb_eval = self._pager.callback
        params.embeddings = self._encoder_only
        context = llama.llama_init_from_model(self._model, params)
        if not context:
            raise OutOfMemory(
                f"no room for a context of {load.n_ctx} tokens: {self._log.reason()}",
                "ask for a smaller context (--ctx), or free memory",
            )
        return context

    def _describe(self, load: Load) -> EngineInfo:
        vocab = self.tokenizer
        template = llama.llama_model_chat_template(self._model, None)
        able, description = self._capabilities(), ctypes.create_string_buffer(256)
        llama.llama_model_desc(self._model, description, 256)
        return EngineInfo(
            backend="llama.cpp",
            version=llama.llama_version().decode(),
            architecture=self._meta("general.architecture"),
            description=description.value.decode("utf-8", "replace"),
            n_ctx=llama.llama_n_ctx_seq(self._context),
            n_ctx_train=llama.llama_model_n_ctx_train(self._model),
            n_vocab=vocab.n_vocab,
            n_embd=self._n_embd,
            n_seq=self._n_seq,
            n_batch=self._n_batch,
            max_rows=self._n_batch if self._encoder_only else MAX_OUTPUTS,
            # Guesses that were wrong are cut off again.
            verifies=MAX_OUTPUTS if "blocks" in able else 0,
            weight_bytes=llama.llama_model_size(self._model),
            kv_bytes=self._log.mebibytes(r"llama_kv_cache\S*:.*KV buffer size = +([\d.]+) MiB"),
            compute_bytes=self._log.mebibytes(r"(?:compute|output) buffer size = +([\d.]+) MiB"),
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos=vocab.token_text(llama.llama_vocab_bos(vocab.pointer)),
            eos=vocab.token_text(llama.llama_vocab_eos(vocab.pointer)),
            add_bos=vocab.add_bos,
            fim=vocab.fim_tokens(),
            control_tokens=vocab.control_tokens(),
            capabilities=able,
            settings={
                "extra_bufts": load.extra_bufts and not load.weights,
                "weights": load.weights,
                "threads": load.threads,
                "kv_type": load.kv_type,
                "gpu_layers": load.gpu_layers,
                **self._places(load.gpu_layers),
                **({"rpc": " ".join(load.rpc)} if load.rpc else {}),
            },
            load_stages=self._stages,
            # Nobody knows what the machine at a worker's address computes with tomorrow.
            kv_identity={} if self._encoder_only or load.rpc else self._kv_identity(load),
        )

    def _places(self, gpu_layers: int) -> dict[str, int]:
        """How many layers there are, and how many of them, the last ones, are on a GPU."""
        layers = llama.llama_model_n_layer(self._model)
        moved = (layers if gpu_layers < 0 else min(gpu_layers, layers)) if llama.llama_supports_gpu_offload() else 0
        return {"layers": layers, "vram_layers": moved}

    def _capabilities(self) -> frozenset[str]:
        if self._encoder_only:
            return frozenset({"embed", "whole_prompt"})
        recurrent = llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        found = {"generate", "embed", "prompt_logprobs", "interrupt", "threads", "save", "adapters"}
        if recurrent:
            return frozenset(found | {"whole_restore"})
        # What a sliding window has left behind is not in the state, so a restored one cannot be cut.
        cut = "whole_restore" if llama.llama_model_n_swa(self._model) else "blocks"
        return frozenset(found | {"trim", "fork", cut})

    def _kv_identity(self, load: Load) -> dict[str, str]:
        """What changes the bytes of the KV beside the weights, which carry the RoPE settings with them."""
        return {
            "engine": f"llama.cpp {llama.llama_version().decode()} {llama.llama_print_system_info().decode()}",
            "architecture": self._meta("general.architecture"),
            "kv": load.kv_type,
            "flash_attention": "auto",
            "unified": "yes",
            "rope": "as in the weights",
            "rotation": os.environ.get("LLAMA_ATTN_ROT_DISABLE", ""),
            "extra_bufts": str(load.extra_bufts),
            "gpu_layers": str(load.gpu_layers),
        }

    # -- the contract

    def info(self) -> EngineInfo:
        return self._info

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        """See `engine.Engine.step`. Raises BackendError where the library refuses the batch for good."""
        total = sum(len(part.tokens) for part in batch)
        self._check(batch, total)
        embedding = any(part.want == "embed" for part in batch)
        if embedding != self._embedding_on and not self._encoder_only:
            llama.llama_set_embeddings(self._context, embedding)
            self._embedding_on = embedding
        raw = self._batch.fill(batch)
        begun = time.perf_counter()
        status = self._run(raw, interrupt)
        if self._pager is not None:
            llama.llama_synchronize(self._context)
            self._pager.stepped(total, time.perf_counter() - begun)
        if status == 1:
            raise CacheFull
        if status == _ABORTED:
            raise StepInterrupted
        if status != 0:
            raise BackendError(f"llama.cpp refused a batch (status {status}): {self._log.reason()}", "retry once")
        return self._collect(batch, total, all_rows=embedding)

    def _run(self, raw: Any, interrupt: Interrupt | None) -> int:
        run = llama.llama_encode if self._encoder_only else llama.llama_decode
        if interrupt is None:
            return int(run(self._context, raw))
        # Only for long steps: the library asks before each of its hundreds of graph nodes, and each asking takes the
        # interpreter's lock. A batch is one micro-batch here, so a step given up leaves no half of it behind.
        ask = llama.ggml_abort_callback(lambda _: interrupt())
        llama.llama_set_abort_callback(self._context, ask, None)
        try:
            return int(run(self._context, raw))
        finally:
            llama.llama_set_abort_callback(self._context, llama.ggml_abort_callback(), None)

    def _check(self, batch: Sequence[Slice], total: int) -> None:
        rows = sum(len(p.tokens) if p.want in ("all", "embed") else p.want == "last" for p in batch)
        if not 0 < total <= self._n_batch or (rows > MAX_OUTPUTS and not self._encoder_only):
            raise ValueError(f"a step of {total} tokens and {rows} rows is over the limit of this context")
        for part in batch:
            if not 0 <= part.seq < self._n_seq or part.pos < 0 or not part.tokens:
                raise ValueError(f"no such place: sequence {part.seq}, position {part.pos}")

    def _collect(self, batch: Sequence[Slice], total: int, *, all_rows: bool) -> list[Floats | None]:
        if self._encoder_only:
            return [self._pooled(part.seq) for part in batch]
        wanted = {"none": 0, "last": 1}
        rows = total if all_rows else sum(wanted.get(p.want, len(p.tokens)) for p in batch)
        if rows == 0:
            llama.llama_synchronize(self._context)
            return [None] * len(batch)
        logits = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (rows, self._info.n_vocab))
        out: list[Floats | None] = []
        row = 0
        for part in batch:
            size = len(part.tokens) if all_rows else wanted.get(part.want, len(part.tokens))
            if part.want == "none":
                out.append(None)
            elif part.want == "embed":
                states = llama.llama_get_embeddings(self._context)
                block = np.ctypeslib.as_array(states, (rows, self._n_embd))[row : row + size]
                out.append(block.sum(axis=0, keepdims=True))
            else:
                out.append(logits[row + size - 1 : row + size] if part.want == "last" else logits[row : row + size])
            row += size
        return out

    def _pooled(self, seq: int) -> Floats:
        pointer = llama.llama_get_embeddings_seq(self._context, seq)
        if not pointer:
            raise UnsupportedModel("this encoder has no pooling layer", "use an embedding model with pooling")
        return np.array(np.ctypeslib.as_array(pointer, (1, self._n_embd)))

    def trim(self, seq: int, pos: int) -> bool:
        return self._encoder_only or bool(llama.llama_memory_seq_rm(self._memory, self._seq(seq), pos, -1))

    def fork(self, source: int, target: int) -> None:
        llama.llama_memory_seq_cp(self._memory, self._seq(source), self._seq(target), -1, -1)

    def drop(self, seq: int) -> None:
        if not self._encoder_only:
            llama.llama_memory_seq_rm(self._memory, self._seq(seq), -1, -1)

    def save(self, seq: int) -> bytearray:
        state = bytearray(llama.llama_state_seq_get_size(self._context, self._seq(seq)))
        view = (ctypes.c_uint8 * len(state)).from_buffer(state)
        written = llama.llama_state_seq_get_data(self._context, view, len(state), seq)
        return state[:written] if written != len(state) else state

    def restore(self, seq: int, state: bytearray) -> bool:
        view = (ctypes.c_uint8 * len(state)).from_buffer(state)
        return bool(llama.llama_state_seq_set_data(self._context, view, len(state), self._seq(seq)) == len(state))

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        scratch = self._scratch
        llama.llama_memory_seq_cp(self._memory, self._seq(seq), scratch, start, end)
        block = bytearray(llama.llama_state_seq_get_size(self._context, scratch))
        view = (ctypes.c_uint8 * len(block)).from_buffer(block)
        written = llama.llama_state_seq_get_data(self._context, view, len(block), scratch)
        llama.llama_memory_seq_rm(self._memory, scratch, -1, -1)
        if written != len(block):
            raise BackendError(f"llama.cpp gave {written} of {len(block)} bytes of its cache", "retry once")
        return block

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        scratch, memory = self._scratch, self._memory
        view = (ctypes.c_uint8 * len(block)).from_buffer(block)
        taken = llama.llama_state_seq_set_data(self._context, view, len(block), scratch) == len(block)
        # The library does not notice holes or overlaps: that the positions follow is ours to see to.
        span = llama.llama_memory_seq_pos_min(memory, scratch), llama.llama_memory_seq_pos_max(memory, scratch)
        fits = taken and span == (start, end - 1)
        if fits and llama.llama_memory_seq_pos_max(memory, self._seq(seq)) == start - 1:
            llama.llama_memory_seq_cp(memory, scratch, seq, -1, -1)
        else:
            fits = False
        llama.llama_memory_seq_rm(memory, scratch, -1, -1)
        return fits

    def _seq(self, seq: int) -> int:
        if not 0 <= seq < self._n_seq:
            raise ValueError(f"no sequence {seq}: there are {self._n_seq}")
        return seq

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        """See `engine.Engine.adapt`. The context pays for a change with its next step, which plans its graph anew."""
        self._adapters.use(adapters)

    def residency(self) -> WeightsReport | None:
        """What of the weights is in memory; None where all of them were given room."""
        return self._pager.report() if self._pager is not None else None

    def set_threads(self, threads: int) -> None:
        llama.llama_set_n_threads(self._context, threads, threads)

    def close(self) -> None:
        self._adapters.close()
        llama.llama_free(self._context)
        if self._pager is not None:
            self._pager.close()
        llama.llama_model_free(self._model)
        # The library keeps the pointer, and would call it for the next model of this process.
        llama.llama_log_set(llama.llama_log_callback(), ctypes.c_void_p(0))


def _load_error(reason: str) -> BackendError:
    if "unknown model architecture" in reason or "unsupported" in reason:
        return UnsupportedModel(f"llama.cpp cannot run this model: {reason}", "choose another model")
    if "alloc" in reason or "memory" in reason:
        return OutOfMemory(f"the weights do not fit: {reason}", "free memory or choose a smaller quantisation")
    return ModelFileError(f"llama.cpp cannot read the model: {reason}", "download it again: `localai models pull`")
