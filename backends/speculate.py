"""Which tokens a decode step verifies beside the one that is due: guesses that are worth what they cost.

Decoding sequences and measured step costs enter, longer slices leave. A guess never changes the text: the sampler
draws at every position from the true logits, and what it draws beyond the first wrong guess is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from backends.contract import EngineInfo
from backends.costs import StepCosts
from backends.draft import DraftModel
from backends.engine import Slice
from backends.lookup import Lookup
from backends.sequences import Sequence

CAPABILITY = "speculate"
"""Of engines that give logits at several positions of a sequence and can trim it at any."""
_LENGTHS = (1, 2, 3, 5, 7, 11, 15, 23, 31)
_GAIN = 1.08
"""Least advantage in tokens per second: costs and chances are estimates."""
_RETRY = 64
"""Steps after which the other way is tried once, so that the costs of both stay true beside changing neighbours."""
_HOPEFUL = 1.5
"""Expected tokens of a step that make such a try worth while."""

Plan = list[tuple[Sequence, Slice]]


@dataclass(frozen=True, slots=True)
class Guess:
    """The next tokens, and the seconds that finding them takes; `expected[k]` of the first k will be right."""

    tokens: Tokens[int]
    expected: Tokens[float]
    seconds: float = 0.0


class Speculator:
    """For one engine; `draft` guesses where the text so far gives nothing to copy."""

    def __init__(self, info: EngineInfo, draft: DraftModel | None = None) -> None:
        self._info = info
        self._draft = draft
        self._able = CAPABILITY in info.capabilities
        self._alike = 0
        self._guessed = False

    def lengthen(self, plan: Plan, costs: StepCosts, free_cells: int) -> Plan:
        """The decode steps of `plan`, with guesses where they pay; a plan that carries prefill stays as it is.

        So does one of several sequences: where their cells interleave otherwise, attention adds up in another order.
        """
        if not self._able or len(plan) != 1 or plan[0][0].prefilling:
            return plan
        room = min(self._info.max_rows, self._info.n_batch, len(plan) + free_cells) - len(plan)
        tokens = expected = float(len(plan))
        longer: Plan = []
        hopeful = False
        for sequence, part in plan:
            guess = self._guess(sequence, min(room, self._limit(sequence)), costs, len(plan))
            count, gain = _best(guess, costs, int(tokens), expected)
            hopeful = hopeful or count > 0
            if not self._take(gain, expected + guess.expected[count], len(plan)):
                count = 0
            guessed = self._tokens(sequence, guess, count)
            if guessed:
                part = Slice(part.seq, [*part.tokens, *guessed], part.pos, "all")
                tokens, expected, room = tokens + len(guessed), expected + guess.expected[count], room - len(guessed)
            longer.append((sequence, part))
        self._note(tokens > len(plan), hopeful)
        return longer

    def _limit(self, sequence: Sequence) -> int:
        job = sequence.job
        if not job.speculate:
            return 0
        left = self._info.n_ctx - len(sequence.tokens)
        return left if job.max_tokens is None else min(left, job.max_tokens - sequence.generated - 1)

    def _guess(self, sequence: Sequence, most: int, costs: StepCosts, running: int) -> Guess:
        if most <= 0:
            return Guess((), (0.0,))
        if sequence.lookup is None:
            sequence.lookup = Lookup(len(sequence.job.tokens))
        sequence.lookup.follow(sequence.tokens)
        tokens, chances = sequence.lookup.guess(sequence.tokens, min(most, _LENGTHS[-1]))
        found = Guess(tokens, _sums(chances))
        if self._draft is None or _best(found, costs, running, float(running))[1] >= _GAIN or running > 1:
            return found
        chances = self._draft.chances(sequence, min(most, _LENGTHS[-1]))
        return Guess((), _sums(chances), max(self._draft.step_s, 1e-9))

    def _take(self, gain: float, expected: float, running: int) -> bool:
        if self._alike >= _RETRY:
            return not self._guessed and expected >= _HOPEFUL * running
        return gain >= _GAIN

    def _tokens(self, sequence: Sequence, guess: Guess, count: int) -> list[int]:
        if not count:
            trial = self._draft is not None and guess.seconds and self._draft.due(sequence)
            count = min(len(guess.expected) - 1, 4) if trial else 0
        if count and guess.seconds and self._draft is not None:
            return self._draft.propose(sequence, count)
        return list(guess.tokens[:count])

    def _note(self, guessed: bool, hopeful: bool) -> None:
        """Count the steps of one kind in a row, of those where the other was possible."""
        if guessed != self._guessed:
            self._guessed, self._alike = guessed, 0
        elif guessed or hopeful:
            self._alike += 1

    def judge(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Note what came of the guesses of one step."""
        sequence.drafted += drafted
        sequence.accepted += accepted
        if self._draft is not None:
            self._draft.judge(sequence, accepted)


def _sums(chances: Tokens[float]) -> list[float]:
    sums, every = [0.0], 1.0
    for chance in chances:
        every *= chance
        sums.append(sums[-1] + every)
    return sums


def _best(guess: Guess, costs: StepCosts, tokens: int, expected: float) -> tuple[int, float]:
    """How many guessed tokens to add to a step of `tokens`, of which `expected` will be kept, and what that gains."""
    most = len(guess.expected) - 1
    plain = costs.estimate(tokens)
    if most < 1 or not plain:
        return 0, 1.0
    best, gain = 0, 1.0
    for count in (*(n for n in _LENGTHS if n < most), most):
        seconds = costs.estimate(tokens + count)
        assert seconds is not None
        better = (expected + guess.expected[count]) / expected * plain / (seconds + count * guess.seconds)
        if better > gain or not best:
            best, gain = count, better
    return best, gain
