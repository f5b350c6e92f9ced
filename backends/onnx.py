"""Decoders on ONNX Runtime: batches in, logits out, the KV cache in memory of our own.

Runs GGUF files of three families through graphs built from them, and decoders exported for the hub.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort

from backends.contract import EngineInfo, Load
from backends.engine import CacheFull, Floats, Interrupt, Slice, StepInterrupted
from backends.onnx_cells import GrowingCells, SharedCells
from backends.onnx_kv8 import TwinRunner
from backends.onnx_layout import Layout
from backends.onnx_models import OnnxModel, open_model
from backends.onnx_runs import GrowingRunner, Runner, SharedRunner, Work, angles_of
from backends.onnx_session import ERRORS, Sessions, providers, run_error, version

N_BATCH = 512
N_BATCH_WHOLE = 64
"""Tokens of a step where the graph gives the logits of all of them."""
MAX_ROWS = 64
PIECE = 128
SHORT = 16
"""Tokens of a run from which the graph for prompts computes it, where there is one."""
_POLL_S = 0.005


class OnnxEngine:
    """A `engine.Engine` over ONNX Runtime sessions that share `load.n_ctx` cells."""

    def __init__(self, load: Load, progress: Callable[[str, float], None]) -> None:
        started = time.monotonic()
        self._model = open_model(load, progress)
        self.tokenizer = self._model.tokenizer
        opened = time.monotonic()
        layout = self._model.layout
        self._n_seq, self._n_ctx = load.n_seq, load.n_ctx
        self._n_batch = min(N_BATCH if layout.rows else N_BATCH_WHOLE, load.n_ctx)
        self._runner = _runner(self._model, load)
        self._sessions = Sessions(self._model.graph, self._model.name, providers())
        prefill = self._model.prefill_graph
        self._prompts = self._sessions if prefill is None else Sessions(prefill, self._model.name, providers())
        self.set_threads(load.threads)
        progress("weights", 1.0)
        self._logits = np.empty((MAX_ROWS, layout.vocab), np.float32)
        stages = {"graph": round(opened - started, 4), "session": round(time.monotonic() - opened, 4)}
        self._info = self._describe(load, stages)

    def _describe(self, load: Load, stages: dict[str, float]) -> EngineInfo:
        model, vocab = self._model, self._model.tokenizer
        capabilities = {"threads", "generate", "prompt_logprobs", "interrupt", "trim", "fork", "blocks"}
        return EngineInfo(
            backend="onnx",
            version=version(),
            architecture=model.architecture,
            description=model.description,
            n_ctx=self._n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_vocab=model.layout.vocab,
            n_embd=model.width,
            n_seq=self._n_seq,
            n_batch=self._n_batch,
            max_rows=MAX_ROWS,
            # Guesses must be verified by the graph that would have made them.
            verifies=MAX_ROWS if model.prefill_graph is None and model.scales is None else SHORT - 1,
            weight_bytes=model.weight_bytes,
            kv_bytes=self._n_ctx * model.layout.token_bytes,
            compute_bytes=self._logits.nbytes,
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
                "kv_type": {1: "int8", 2: "f16", 4: "f32"}[model.layout.kv_type.itemsize],
                "device": self._session.get_providers()[0],
            },
            load_stages=stages,
            kv_identity={
                "engine": f"onnx {version()}",
                "graph": model.built,
                "kv": model.layout.kv_type.name,
                "device": self._session.get_providers()[0],
            },
        )

    def info(self) -> EngineInfo:
        return self._info

    # -- running

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        """See `engine.Engine.step`. A step is one run for all sequences with a single token, and one for each other.

        Raises BackendError where the library refuses a run.
        """
        self._check(batch)
        cells = self._runner.cells
        growing = {part.seq: part.pos + len(part.tokens) for part in batch}
        if sum(growing.get(seq, length) for seq, length in enumerate(cells.lengths)) > self._n_ctx:
            raise CacheFull
        results: dict[int, Floats | None] = {}
        free = 0
        with _watched(interrupt) as options:
            for group in self._groups(batch):
                free += self._run(group, free, options, results)
        for part in batch:
            self._runner.wrote(part.seq, growing[part.seq])
        return [results[part.seq] for part in batch]

    def _check(self, batch: Sequence[Slice]) -> None:
        total = sum(len(part.tokens) for part in batch)
        rows = sum(len(p.tokens) if p.want in ("all", "embed") else p.want == "last" for p in batch)
        if not 0 < total <= self._n_batch or rows > MAX_ROWS:
            raise ValueError(f"a step of {total} tokens and {rows} rows is over the limit of this engine")
        for part in batch:
            if not 0 <= part.seq < self._n_seq or not part.tokens or part.pos != self._runner.cells.lengths[part.seq]:
                raise ValueError(f"no such place: sequence {part.seq}, position {part.pos}")
        if len({part.seq for part in batch}) < len(batch):
            raise ValueError("a sequence stands twice in one step")

    def _groups(self, batch: Sequence[Slice]) -> list[list[Slice]]:
        """What can run together: equally many tokens of each sequence, in a cache that they share."""
        single = {part.seq: part for part in batch if len(part.tokens) == 1 and part.want != "embed"}
        if not self._model.layout.shared or len(single) < 2:
            return [[piece] for part in batch for piece in self._pieces(part)]
        together = [single[seq] for seq in self._runner.order(list(single))]
        longer = [part for part in batch if part.seq not in single]
        return [together, *([piece] for part in longer for piece in self._pieces(part))]

    def _pieces(self, part: Slice) -> list[Slice]:
        """A prompt in pieces whose attention scores stay in the processor's caches."""
        if part.want in ("all", "embed") or not self._model.layout.rows:
            return [part]
        starts = range(0, len(part.tokens), PIECE)
        last = starts[-1]
        return [
            Slice(part.seq, part.tokens[at : at + PIECE], part.pos + at, part.want if at == last else "none")
            for at in starts
        ]

    def _run(self, group: list[Slice], free: int, options: ort.RunOptions, results: dict[int, Floats | None]) -> int:
        """Run a group; its logits go to the buffer's rows from `free` on. Returns how many rows were taken."""
        tokens = np.array([part.tokens for part in group], np.int64)
        places = [_places(part, index) for index, part in enumerate(group)]
        rows = np.array([row for own in places for row in own], np.int64)
        states = np.empty((tokens.size, self._model.width), np.float32) if group[0].want == "embed" else None
        # Graphs need a row to compute; where none is wanted it is the first, and nobody reads it.
        wanted = rows if rows.size else np.zeros(1, np.int64)
        end = free + wanted.size
        logits = self._logits[free:end] if end <= MAX_ROWS else np.empty((1, self._logits.shape[1]), np.float32)
        work = Work([part.seq for part in group], [part.pos for part in group], tokens, wanted, logits, states)
        session = self._prompt_session if tokens.shape[1] >= SHORT else self._session
        try:
            self._runner.run(session, work, options)
        except ERRORS as error:
            if options.terminate:
                raise StepInterrupted from error
            raise run_error(error) from error
        at = 0
        for part, own in zip(group, places, strict=True):
            results[part.seq] = logits[at : at + len(own)] if own else None
            at += len(own)
            if states is not None:
                results[part.seq] = states.sum(axis=0, keepdims=True)
        return int(rows.size)

    # -- sequences

    def trim(self, seq: int, pos: int) -> bool:
        self._runner.cut(self._seq(seq), pos)
        return True

    def fork(self, source: int, target: int) -> None:
        """Unlike the contract's word, the cells are copied: each sequence has its own."""
        self.drop(target)
        self._runner.cells.copy(self._seq(source), target)

    def drop(self, seq: int) -> None:
        self._runner.cut(self._seq(seq), 0)

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        return self._runner.cells.export_block(self._seq(seq), start, end)

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        return self._runner.cells.import_block(self._seq(seq), start, end, block)

    def _seq(self, seq: int) -> int:
        if not 0 <= seq < self._n_seq:
            raise ValueError(f"no sequence {seq}: there are {self._n_seq}")
        return seq

    def set_threads(self, threads: int) -> None:
        """Sessions have their threads for good: each count gets its own, over the same mapped weights."""
        self._session = self._sessions.get(max(1, threads))
        self._prompt_session = self._prompts.get(max(1, threads))

    def close(self) -> None:
        self._runner.close()
        del self._session, self._prompt_session
        self._sessions.close()
        self._prompts.close()
        self._model.close()


def _runner(model: OnnxModel, load: Load) -> Runner:
    if not model.layout.shared:
        return GrowingRunner(model.layout, GrowingCells(model.layout, load.n_seq))
    runner = _shared_runner(model, model.layout, load.n_ctx, load.n_seq)
    if model.scales is None:
        return runner
    prompts = replace(model.layout, kv_type=np.dtype(np.float32))
    return TwinRunner(runner, _shared_runner(model, prompts, load.n_ctx, 1), model.scales, SHORT)


def _shared_runner(model: OnnxModel, layout: Layout, n_ctx: int, n_seq: int) -> SharedRunner:
    cells = SharedCells(layout, n_ctx, n_seq)
    return SharedRunner(layout, cells, angles_of(cells, model.frequencies))


def _places(part: Slice, index: int) -> list[int]:
    """Which rows of a run's tokens are wanted: of slice `index` among equally long ones."""
    count = len(part.tokens)
    if part.want == "all":
        return list(range(index * count, (index + 1) * count))
    return [(index + 1) * count - 1] if part.want == "last" else []


@contextmanager
def _watched(interrupt: Interrupt | None) -> Any:
    """Run options that end the run when `interrupt` says so, asked from a thread of its own."""
    options = ort.RunOptions()
    if interrupt is None:
        yield options
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            if interrupt():
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, name="interrupt")
    watcher.start()
    try:
        yield options
    finally:
        over.set()
        watcher.join()
