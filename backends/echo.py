"""A deterministic engine without weights, for tests of everything around an engine: it repeats its prompt.

The vocabulary is the 256 bytes and an end token; the logits point at the prompt's bytes in turn, then at the end. It
says nothing about any real engine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backends.contract import Adapter, EngineInfo, Load
from backends.engine import CacheFull, Floats, Interrupt, Slice, Tokenizer
from backends.errors import ModelFileError

_END = 256
_N_VOCAB = 257
_BEYOND_SELF_TEST = 64


class EchoTokenizer:
    """One token per byte of UTF-8."""

    pointer: Any = None
    n_vocab = _N_VOCAB
    eog = frozenset({_END})

    def encode(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < _END else b""

    def raw_piece(self, token: int) -> bytes:
        return bytes([token]) if token < _END else b"<end>"


class EchoEngine:
    """`order.path` is a text file; a number on its first line is the milliseconds that each step takes.

    `crash-fast` after it makes the self-test of `extra_bufts` die of SIGSEGV, `crash-decode` each decode step there,
    `crash-always` each step with any setting; `nan` makes all logits no numbers.
    Adapters are text files with a number to add to each byte of the answer.
    """

    def __init__(self, order: Load, progress: Callable[[str, float], None]) -> None:
        try:
            first = Path(order.path).read_text(encoding="utf-8").split("\n")[0].strip()
        except OSError as error:
            raise ModelFileError("the echo file cannot be read", "give a readable text file") from error
        number, _, self._crash = first.partition(" ")
        self._step_s = float(number) / 1000 if number else 0.0
        self.tokenizer: Tokenizer = EchoTokenizer()
        self._order = order
        self._held: dict[int, list[int]] = {}
        self._prompts: dict[int, int] = {}
        self._adapters: tuple[Adapter, ...] = ()
        self._shift = 0
        self._made_under: dict[int, tuple[Adapter, ...]] = {}
        progress("weights", 1.0)

    def info(self) -> EngineInfo:
        return EngineInfo(
            backend="echo",
            version="1",
            architecture="echo",
            description="repeats its prompt",
            n_ctx=self._order.n_ctx,
            n_ctx_train=self._order.n_ctx,
            n_vocab=_N_VOCAB,
            n_embd=4,
            n_seq=self._order.n_seq,
            n_batch=512,
            max_rows=64,
            weight_bytes=0,
            kv_bytes=0,
            compute_bytes=0,
            chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
            bos="",
            eos="",
            add_bos=False,
            fim={},
            control_tokens={},
            capabilities=frozenset(
                {"generate", "embed", "prompt_logprobs", "trim", "fork", "blocks", "adapters", "threads"}
            ),
            settings={"threads": self._order.threads},
            kv_identity={"engine": "echo 1"},
        )

    def step(self, batch: Sequence[Slice], interrupt: Interrupt | None = None) -> list[Floats | None]:
        if sum(len(t) for t in self._held.values()) + sum(len(p.tokens) for p in batch) > self._order.n_ctx:
            raise CacheFull
        if self._step_s:
            time.sleep(self._step_s)
        alone = len(batch) == 1 and len(batch[0].tokens) == 1 and not self._order.prove
        deadly = {"crash-fast": self._order.prove, "crash-decode": alone and batch[0].pos > _BEYOND_SELF_TEST}
        if self._crash == "crash-always" or (self._order.extra_bufts and deadly.get(self._crash, False)):
            os.kill(os.getpid(), signal.SIGSEGV)
        return [self._run(part) for part in batch]

    def _run(self, part: Slice) -> Floats | None:
        held = self._held.setdefault(part.seq, [])
        assert len(held) == part.pos, "positions must be contiguous"
        if held:
            assert self._made_under[part.seq] == self._adapters, "this was computed under other adapters"
        self._made_under[part.seq] = self._adapters
        held.extend(part.tokens)
        if part.want == "none":
            return None
        if part.want == "embed":
            return np.array([[len(part.tokens), sum(part.tokens), min(part.tokens), max(part.tokens)]], np.float32)
        # The first position that is read is the prompt's last; what comes after it is the answer.
        prompt = self._prompts.setdefault(part.seq, len(held))
        said = len(held) - prompt
        rows = np.full((len(part.tokens) if part.want == "all" else 1, _N_VOCAB), -10.0, np.float32)
        sure = np.nan if self._crash == "nan" else 10.0
        rows[:, (held[said] + self._shift) % _END if said < prompt else _END] = sure
        return rows

    def trim(self, seq: int, pos: int) -> bool:
        del self._held.setdefault(seq, [])[pos:]
        self._prompts.pop(seq, None)
        return True

    def fork(self, source: int, target: int) -> None:
        self._held[target] = list(self._held.get(source, []))
        self._made_under[target] = self._made_under.get(source, ())
        if source in self._prompts:
            self._prompts[target] = self._prompts[source]

    def drop(self, seq: int) -> None:
        self._held.pop(seq, None)
        self._prompts.pop(seq, None)

    def save(self, seq: int) -> bytearray:
        return self.export_block(seq, 0, len(self._held.get(seq, [])))

    def restore(self, seq: int, state: bytearray) -> bool:
        self.drop(seq)
        begin = 4 + int.from_bytes(state[:4], "little")
        return self.import_block(seq, 0, (len(state) - begin) // 2, state)

    def export_block(self, seq: int, start: int, end: int) -> bytearray:
        adapters = msgspec.msgpack.encode(self._made_under.get(seq, ()))
        tokens = b"".join(t.to_bytes(2, "little") for t in self._held.get(seq, [])[start:end])
        return bytearray(len(adapters).to_bytes(4, "little") + adapters + tokens)

    def import_block(self, seq: int, start: int, end: int, block: bytearray) -> bool:
        held = self._held.setdefault(seq, [])
        begin = 4 + int.from_bytes(block[:4], "little")
        if len(held) != start or len(block) != begin + 2 * (end - start):
            return False
        self._made_under[seq] = msgspec.msgpack.decode(block[4:begin], type=tuple[Adapter, ...])
        held.extend(int.from_bytes(block[i : i + 2], "little") for i in range(begin, len(block), 2))
        self._prompts.pop(seq, None)
        return True

    def adapt(self, adapters: tuple[Adapter, ...]) -> None:
        try:
            shifts = [int(Path(adapter.path).read_text(encoding="utf-8")) for adapter in adapters]
        except (OSError, ValueError) as error:
            raise ModelFileError("the echo adapter holds no number", "write one into it") from error
        self._adapters, self._shift = adapters, sum(shifts)

    def set_threads(self, threads: int) -> None:
        pass

    def close(self) -> None:
        self._held.clear()
