"""Contexts longer than memory: an ONNX decoder whose keys and values lie in RAM up to a budget, else on the SSD.

Prompts are read exactly, whatever their length: each piece meets all pages before it, streamed. A decoded token attends
to the pages that its own queries choose. One sequence at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from backends.contract import EngineInfo, Load
from backends.engine import CacheFull, Floats, Interrupt, Slice, StepInterrupted
from backends.errors import BackendError
from backends.heap import give_back
from backends.kv_paging import PagedUse
from backends.onnx_blocks import BlockAttention, Mixing, angles, causal, rotated
from backends.onnx_models import open_model
from backends.onnx_parts import Border, Parts, Values
from backends.onnx_session import ERRORS, options_for, run_error, version
from backends.page_choice import PageChoice
from backends.page_file import PageFile
from backends.page_plan import page_shape
from backends.page_pool import PagePool

N_BATCH = 256
MAX_ROWS = 64


class PagedEngine:
    """A `engine.Engine` for one sequence of up to `load.n_ctx` tokens, with `load.paging.ram` bytes of them in RAM."""

    def __init__(self, load: Load, progress: Callable[[str, float], None]) -> None:
        """Raises OutOfMemory where the budget holds too little to work with, StorageFailed where the SSD's does."""
        started = time.monotonic()
        self._model = open_model(load, progress)
        self.tokenizer = self._model.tokenizer
        layout, paging = self._model.layout, load.paging
        opened = time.monotonic()
        self._parts = Parts(self._model.graph, self._model.name, _options(load.threads))
        shape = page_shape(layout.layers, layout.kv_heads, layout.head_dim, load.n_ctx, paging)
        self._n_ctx = load.n_ctx
        self._choice = PageChoice(shape.layers, shape.kv_heads, shape.pages, shape.head_dim)
        planes = shape.layers * shape.kv_heads
        self._file = PageFile(Path(paging.folder), planes, shape.pages, shape.half_bytes, paging.ssd)
        self._pool = PagePool(shape, self._file)
        self._attention = BlockAttention(shape.head_dim, _options(load.threads))
        self._cos, self._sin = angles(np.array(self._model.frequencies), load.n_ctx)
        wanted = -(-paging.tokens // shape.tokens)
        # One frame is for the page that is being filled.
        self._most = shape.pages if paging.tokens < 0 else min(wanted or shape.frames, shape.frames - 1)
        self._stream_all = paging.tokens < 0 and shape.frames < shape.pages
        self._length = 0
        self._attended, self._held = 0, 0
        self._told = PagedUse()
        progress("weights", 1.0)
        stages = {"graph": round(opened - started, 4), "session": round(time.monotonic() - opened, 4)}
        self._info = self._describe(load, stages)

    def _describe(self, load: Load, stages: dict[str, float]) -> EngineInfo:
        model, vocab, shape = self._model, self._model.tokenizer, self._pool.shape
        capabilities = {"generate", "prompt_logprobs", "interrupt", "trim", "paged"}
        return EngineInfo(
            backend="onnx",
            version=version(),
            architecture=model.architecture,
            description=model.description,
            n_ctx=self._n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_vocab=model.layout.vocab,
            n_embd=model.width,
            n_seq=1,
            n_batch=min(N_BATCH, load.n_ctx),
            max_rows=MAX_ROWS,
            weight_bytes=model.weight_bytes,
            kv_bytes=self._pool.nbytes + self._choice.nbytes,
            compute_bytes=N_BATCH * (model.layout.vocab // 64 + 8 * model.width) * 4,
            chat_template=vocab.chat_template,
            bos=vocab.bos,
            eos=vocab.eos,
            add_bos=vocab.add_bos,
            fim=vocab.fim_tokens(),
            control_tokens=vocab.control_tokens(),
            capabilities=frozenset(capabilities | ({"embed"} if model.layout.states else set())),
            settings={
                "mode": load.mode,
                "threads": load.threads,
                "kv_type": "f32",
                "device": "CPUExecutionProvider",
                "page_tokens": shape.tokens,
                "pages_in_ram": shape.frames,
                "attends_to": "everything" if self._most >= shape.pages else f"{self._most} pages",
            },
            load_stages=stages,
        )

    def info(self) -> EngineInfo:
        return self._info

    # -- running

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        """See `engine.Engine.step`. Raises StorageFailed where the SSD has no room for the new tokens."""
        (part,) = batch
        rows = len(part.tokens) if part.want in ("all", "embed") else part.want == "last"
        if part.seq or not 0 < len(part.tokens) <= self._info.n_batch or part.pos != self._length or rows > MAX_ROWS:
            raise ValueError(f"a step of {len(part.tokens)} tokens at position {part.pos} cannot run here")
        if part.pos + len(part.tokens) > self._n_ctx:
            raise CacheFull
        try:
            found = self._forward(part, interrupt)
        except ERRORS as error:
            self._pool.trim(self._length)
            raise run_error(error) from error
        except (BackendError, StepInterrupted):
            self._pool.trim(self._length)
            raise
        self._length += len(part.tokens)
        if len(part.tokens) > 1:
            # What the parts of the graph took piece by piece would stay with the process, beside the budget.
            give_back()
        return [found]

    def _forward(self, part: Slice, interrupt: Interrupt | None) -> Floats | None:
        count = len(part.tokens)
        # Graphs need a row to compute; where none is wanted nobody reads it.
        rows = np.arange(count) if part.want == "all" else np.array([count - 1])
        values: Values = {"input_ids": np.array([part.tokens], np.int64), "rows": rows.astype(np.int64)}
        for layer, border in enumerate(self._parts.borders):
            if interrupt is not None and interrupt():
                raise StepInterrupted
            self._parts.run(layer, values)
            values[border.output] = self._mixed(layer, border, part.pos, values)
        self._parts.run(len(self._parts.borders), values)
        if part.want == "embed":
            states: Floats = values["states"].sum(axis=0, keepdims=True)
            return states
        return None if part.want == "none" else values["logits"]

    def _mixed(self, layer: int, border: Border, pos: int, values: Values) -> Floats:
        """The attention of one layer for the new tokens, (1, tokens, heads * head_dim); they are in the pages then."""
        shape, packed = self._pool.shape, [values.pop(name) for name in border.inputs]
        whole = packed[0] if len(packed) == 1 else np.concatenate(packed, axis=-1)
        count, heads, groups = whole.shape[1], shape.kv_heads, border.heads // shape.kv_heads
        states = whole.reshape(count, -1, shape.head_dim)
        turned = slice(0, border.heads + heads)
        here = slice(pos, pos + count)
        states[:, turned] = rotated(states[:, turned], self._cos[here], self._sin[here])
        queries = states[:, : border.heads].reshape(count, heads, groups, -1).transpose(1, 2, 0, 3)
        keys, fresh = (
            np.ascontiguousarray(states[:, start : start + heads].transpose(1, 0, 2))
            for start in (border.heads, border.heads + heads)
        )
        mixing = self._attention.start(np.ascontiguousarray(queries).reshape(heads, groups * count, -1))
        self._meet_new(mixing, layer, pos, keys, fresh, groups)
        self._meet_pages(mixing, layer, pos // shape.tokens, queries[:, :, -1] if count == 1 else None)
        for page in self._pool.append(layer, pos, keys, fresh):
            self._choice.note(layer, page, self._pool.keys(layer, page))
        mixed = mixing.result().reshape(heads, groups, count, -1).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(mixed).reshape(1, count, -1)

    def _meet_new(self, mixing: Mixing, layer: int, pos: int, keys: Floats, values: Floats, groups: int) -> None:
        """The new tokens among themselves and with the page that they begin in."""
        tail_keys, tail_values = self._pool.tail(layer, pos)
        held, count = tail_keys.shape[1], keys.shape[1]
        keys = np.concatenate((tail_keys, keys), axis=1)
        values = np.concatenate((tail_values, values), axis=1)
        if count == 1:
            mixing.add(keys, values)
        else:
            mixing.add(keys, values, causal(groups, count, held))

    def _meet_pages(self, mixing: Mixing, layer: int, held: int, queries: Floats | None) -> None:
        """Full pages: those that the `queries` of a single token choose, all of them for a piece of a prompt."""
        if not held:
            return
        if queries is None or self._stream_all:
            blocks = self._pool.streamed(layer, held)
            chosen = held
        else:
            scaled = queries * np.float32(queries.shape[-1] ** -0.5)
            pages = self._choice.choose(layer, scaled, held, self._most)
            blocks = self._pool.gathered(layer, pages)
            chosen = pages.shape[1]
        if queries is not None:
            self._attended += chosen
            self._held += held
        for keys, values in blocks:
            mixing.add(keys, values)

    def paged_use(self) -> PagedUse:
        """What paging has taken since this was asked last; what is held is told as of now."""
        now = PagedUse(
            read_pages=self._file.read_pages,
            read_bytes=self._file.read_bytes,
            written_bytes=self._file.written_bytes,
            attended=self._attended,
            held=self._held,
            ram_bytes=self._info.kv_bytes,
            ssd_bytes=self._file.held_bytes,
        )
        told, self._told = self._told, now
        return PagedUse(
            read_pages=now.read_pages - told.read_pages,
            read_bytes=now.read_bytes - told.read_bytes,
            written_bytes=now.written_bytes - told.written_bytes,
            attended=now.attended - told.attended,
            held=now.held - told.held,
            ram_bytes=now.ram_bytes,
            ssd_bytes=now.ssd_bytes,
        )

    # -- the sequence

    def trim(self, seq: int, pos: int) -> bool:
        self._length = min(self._length, pos)
        self._pool.trim(self._length)
        return True

    def drop(self, seq: int) -> None:
        self.trim(seq, 0)

    def set_threads(self, threads: int) -> None:
        """The parts have their threads for good."""

    def close(self) -> None:
        self._file.clear()
        self._parts.close()
        self._model.close()


def _options(threads: int) -> ort.SessionOptions:
    """As for other sessions, but that no thread spins: the sessions of the parts would spin against each other."""
    options = options_for(1)
    options.intra_op_num_threads = max(1, threads)
    # With a memory of its own each part would keep what its largest step took.
    options.enable_cpu_mem_arena = False
    return options
