"""A small model that guesses for a large one of the same vocabulary, in the same process.

Sequences of the large model enter; guessed tokens leave, and the chances and costs that were measured for them.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from backends.engine import CacheFull, Engine, Slice, Tokenizer
from backends.errors import UnsupportedModel
from backends.prefix import Held
from backends.sequences import Sequence

N_SEQ = 4
"""Sequences that the small model keeps at a time."""
_FIRST = 0.7
_WEIGHT = 0.1
_FIRST_WAIT, _LONGEST_WAIT = 32, 1024
_BEHIND = 512
"""Tokens that it may have to read before a guess; a longer prompt is read over several steps."""


class DraftModel:
    """`step_s` is what one token of it takes, in seconds. Raises UnsupportedModel for another vocabulary."""

    def __init__(self, engine: Engine, target: Tokenizer) -> None:
        _check(engine.tokenizer, target)
        self._engine = engine
        self._info = engine.info()
        self._held: OrderedDict[int, list[int]] = OrderedDict((n, []) for n in range(self._info.n_seq))
        self._proposed: int = 0
        self.step_s = 0.0

    def chances(self, sequence: Sequence, most: int) -> list[float]:
        """The chance of each of the next tokens to be right if those before it are."""
        room = self._info.n_ctx - len(sequence.tokens)
        return [sequence.draft_chance] * max(0, min(most, room)) if self.step_s else [0.0] * min(most, 4)

    def due(self, sequence: Sequence) -> bool:
        """Whether it is time to try again what has not paid so far."""
        if sequence.generated < sequence.draft_next:
            return False
        sequence.draft_wait = min(max(2 * sequence.draft_wait, _FIRST_WAIT), _LONGEST_WAIT)
        sequence.draft_next = sequence.generated + sequence.draft_wait
        return True

    def propose(self, sequence: Sequence, count: int) -> list[int]:
        """The `count` likeliest next tokens one after the other; fewer while it is still reading the text."""
        self._proposed = 0
        number, held = self._place(sequence.tokens)
        missing = sequence.tokens[len(held) :]
        size = min(_BEHIND, self._info.n_batch)
        if len(missing) > size:
            self._run(number, held, missing[:size])
            sequence.draft_next = 0
            return []
        token = self._run(number, held, missing)
        guessed = []
        while token is not None:
            guessed.append(token)
            if len(guessed) == count:
                break
            token = self._run(number, held, [token])
        self._proposed = len(guessed)
        return guessed

    def judge(self, sequence: Sequence, accepted: int) -> None:
        """Learn from how many of the last proposal were right."""
        for n in range(min(accepted + 1, self._proposed)):
            sequence.draft_chance += _WEIGHT * ((n < accepted) - sequence.draft_chance)
        self._proposed = 0

    def close(self) -> None:
        self._engine.close()

    def _place(self, tokens: list[int]) -> tuple[int, list[int]]:
        """The number that holds the longest beginning of `tokens`, cut to it, never all of them."""
        sought = Held(tokens[:-1], ())
        common = {number: sought.common(Held(held, ())) for number, held in self._held.items()}
        number = max(common, key=lambda n: common[n])
        if common[number] < len(self._held[number]) // 2:
            number = next(iter(self._held))
        held = self._held[number]
        if len(held) > common[number]:
            self._engine.trim(number, common[number])
            del held[common[number] :]
        self._held.move_to_end(number)
        return number, held

    def _run(self, number: int, held: list[int], tokens: list[int]) -> int | None:
        """The likeliest token after these; None where the small model's cells are full."""
        begun = time.monotonic()
        try:
            rows = self._engine.step([Slice(number, tokens, len(held), "last")])[0]
        except CacheFull:
            for other in self._held:
                self._engine.drop(other)
                self._held[other].clear()
            return None
        held += tokens
        assert rows is not None
        token = int(rows[-1].argmax())
        if len(tokens) == 1:
            took = time.monotonic() - begun
            self.step_s += (took - self.step_s) * (0.2 if self.step_s else 1.0)
        return token


def _check(own: Tokenizer, target: Tokenizer) -> None:
    hint = "choose a draft model of the same family"
    if own.n_vocab != target.n_vocab:
        message = f"the draft model has {own.n_vocab} tokens, the model {target.n_vocab}: another vocabulary"
        raise UnsupportedModel(message, hint)
    other = next((t for t in range(own.n_vocab) if own.raw_piece(t) != target.raw_piece(t)), None)
    if other is not None or own.eog != target.eog:
        message = "the draft model has another vocabulary than the model" + (f" (token {other})" if other else "")
        raise UnsupportedModel(message, hint)
