"""What the step loop asks of an engine, whichever library computes: batches of tokens in, logits or states out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from backends.contract import Adapter, EngineInfo
from backends.kv_paging import PagedUse
from backends.paging_report import WeightsReport

Floats = NDArray[np.float32]
Want = Literal["none", "last", "all", "embed"]


class Tokenizer(Protocol):
    """Text to ids and back, the same for every engine that runs the file.

    `pointer` is a vocabulary of llama.cpp's, made when it is first asked for, None where there is none: its DRY
    sampler reads it.
    """

    n_vocab: int
    eog: frozenset[int]

    @property
    def pointer(self) -> Any: ...

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that `token` adds to the text; b'' for control tokens."""

    def raw_piece(self, token: int) -> bytes:
        """The bytes of `token` with control tokens spelt out, as `<|im_end|>`."""


Interrupt = Callable[[], bool]  # True where the running step should be given up


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of one sequence to run in a step: `tokens` at positions `pos`, `pos + 1`, ... of sequence `seq`."""

    seq: int
    tokens: Sequence[int]
    pos: int
    want: Want


class Engine(Protocol):
    """A loaded model that runs batches. Sequences are numbered 0 to `info().n_seq - 1`.

    One thread calls `step` and the sequence calls; `tokenizer` may be used from any thread.
    """

    tokenizer: Tokenizer

    def info(self) -> EngineInfo: ...

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        """Run one batch; return for each slice what it wanted.

        An engine with the capability `interrupt` asks `interrupt` now and then, and raises StepInterrupted where it
        says so; nothing has changed then. Others run the batch to its end.

        `last`: logits of shape (1, n_vocab); `all`: (len(tokens), n_vocab), row i predicting the token after
        tokens[i]; `embed`: the sum of the slice's embeddings, (1, n_embd); `none`: None. The arrays are views that
        the next step overwrites. Raises CacheFull when the cells do not hold the batch; nothing has changed then.
        """

    def trim(self, seq: int, pos: int) -> bool:
        """Forget positions from `pos` on; False where the model cannot (recurrent state), the sequence unchanged."""

    def fork(self, source: int, target: int) -> None:
        """Let `target` share all of `source`; the cells are not copied."""

    def drop(self, seq: int) -> None:
        """Forget a whole sequence."""

    def save(self, seq: int) -> bytearray:
        """The state of a whole sequence, to be kept elsewhere. For engines with the capability `save`.

        The capability `whole_restore` says that a restored sequence cannot be cut, only continued.
        """

    def restore(self, seq: int, state: bytearray) -> bool:
        """Make `seq` hold what was saved; False where the engine does not accept it, `seq` empty then."""

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        """Positions `start` to `end` of a sequence that holds them. For engines with the capability `blocks`."""

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        """Put an exported block behind the `start` positions that `seq` holds; False where the engine refuses it.

        Blocks come in order of position, so that they lie in the cells as computing would have laid them.
        """

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        """Run steps under these adapters from now on, under none for (). For engines with the capability `adapters`.

        Raises BackendError for one that is broken or made for another model; call again before the next step then.
        """

    def paged_use(self) -> PagedUse:
        """What paging took since this was asked last. For engines with the capability `paged`, of one sequence."""

    def set_threads(self, threads: int) -> None: ...

    def close(self) -> None: ...


class StepInterrupted(Exception):
    """The step was given up because something more urgent came; step again."""


class CacheFull(Exception):
    """The KV cells do not hold the batch; make room and step again."""


@runtime_checkable
class Residence(Protocol):
    """An engine that can run with less memory than its weights take."""

    def residency(self) -> WeightsReport | None:
        """What of the weights is in memory; None where all of them were given room."""
