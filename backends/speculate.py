"""Which tokens a decode step verifies beside the one that is due: guesses that are worth what they cost.

Decoding sequences and measured step costs enter, longer slices leave. A guess never changes the text: the sampler
draws at every position from the true logits, and what it draws beyond the first wrong guess is thrown away. Where
texts must be repeatable, guesses are verified only by steps that give the bits of single ones (see `exactness`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from backends.costs import StepCosts
from backends.draft import DraftModel
from backends.engine import Engine, Floats, Interrupt, Slice
from backends.exactness import Exactness, Question
from backends.guesses import Guesser
from backends.lookup import Lookup
from backends.sequences import Sequence

_LENGTHS = (1, 2, 4, 7, 14, 30)
"""Guessed tokens of a step. Few sizes, because each has to be compared with single steps first."""
_GAIN = 1.08
"""Least advantage in tokens per second: costs and chances are estimates."""
_RETRY = 64
"""Steps after which the other way is tried once, so that the costs of both stay true beside changing neighbours."""
_HOPEFUL = 1.5
"""Expected tokens of a step that make such a try worth while."""
_NEW = 2.5
"""Expected tokens of a step that make it worth while to find out what a step of that size costs."""
_TRIAL = 4
"""Tokens that are guessed where their worth is not known, or not asked for."""
_CREDIT, _SHARE = 1.0, 0.01
"""Steps of one token, and share of all of them, that an answer may lose to guesses."""
_SAVED = 4.0
"""Steps that guesses may lose again of what they have gained."""
_CERTAIN = 12
"""Tokens in a row that the text itself would have given: enough to try beyond that."""
_ROUNDS = "steps of several tokens round otherwise here, and the text must be repeatable"

Plan = list[tuple[Sequence, Slice]]


@dataclass(frozen=True, slots=True)
class Guess:
    """The next tokens, and the seconds that finding each takes; `expected[k]` of the first k will be right.

    A draft model's tokens are only found once they are wanted: `tokens` is empty then.
    """

    by: Guesser
    tokens: Tokens[int]
    expected: Tokens[float]
    seconds: float = 0.0

    @property
    def most(self) -> int:
        return len(self.expected) - 1


@dataclass(frozen=True, slots=True)
class Ran:
    """A step that was run: what ran, what it gave, and the seconds that went into finding out what it may run."""

    plan: Plan
    results: list[Floats | None]
    aside_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Room:
    """The cells that are free and taken, and the threads that the step will run with."""

    free: int
    used: int
    threads: int


class Speculator:
    """For one engine; `draft` guesses where the text so far gives nothing to copy.

    Jobs of speculation `auto` guess where that pays by what was measured. Those of `lookup` and `draft` guess wherever
    there is something to guess.
    """

    def __init__(self, engine: Engine, draft: DraftModel | None = None) -> None:
        self._engine = engine
        self._info = engine.info()
        self._draft = draft
        self._exactness = Exactness()
        self._unsure: Question | None = None
        self._by: Guesser = "lookup"
        self._alike = 0
        self._guessed = False
        self._price = 0.0

    def lengthen(self, plan: Plan, costs: StepCosts, room: Room) -> Plan:
        """The decode step of `plan`, with guesses where they pay; one of several sequences stays as it is.

        There their cells interleave otherwise, and attention adds up in another order.
        """
        self._unsure = None
        # Another number of threads has no readings yet: nothing tells what a longer step would cost.
        if len(plan) != 1 or plan[0][0].prefilling or not costs.known:
            return plan
        sequence, part = plan[0]
        most = min(self._info.verifies - 1, self._info.n_batch - 1, room.free - 1, self._limit(sequence))
        if most <= 0:
            return plan
        guess, count = self._choose(sequence, min(most, _LENGTHS[-1]), costs)
        count = self._permitted(sequence, count, room) if count else 0
        if count:
            plain, long = costs.estimates([1, 1 + count])
            self._price = (long + count * guess.seconds) / plain
        if not count or not self._affordable(sequence, guess, count):
            return plan
        tokens = self._tokens(sequence, guess, count)
        if not tokens:
            return plan
        self._by = guess.by
        # Later answers gain by a comparison too: it is no reason against this guess, but against the next ones.
        self._price += self._comparison(self._price)
        return [(sequence, Slice(part.seq, [*part.tokens, *tokens], part.pos, "all"))]

    def _limit(self, sequence: Sequence) -> int:
        """The most tokens that may be guessed; where that is none for good, the sequence says why."""
        job = sequence.job
        if job.speculation == "off" or not self._info.verifies:
            sequence.unguessed("it was asked for" if job.speculation == "off" else "this engine verifies no guesses")
            return 0
        left = self._info.n_ctx - len(sequence.tokens)
        return left if job.max_tokens is None else min(left, job.max_tokens - sequence.generated - 1)

    def _choose(self, sequence: Sequence, most: int, costs: StepCosts) -> tuple[Guess, int]:
        """Who guesses, and how many tokens of it."""
        found = self._looked_up(sequence, most)
        count, gain = _best(found, costs)
        if gain < _GAIN and self._draft is not None and sequence.job.speculation != "lookup":
            chances = self._draft.chances(sequence, most)
            found = Guess("draft", (), _sums(chances), max(self._draft.step_s, 1e-9))
            count, gain = _best(found, costs)
        if sequence.job.speculation != "auto":
            if not found.most:
                sequence.unguessed("nothing repeats")
            return found, count or min(found.most, _TRIAL)
        if found.by == "draft" and gain < _GAIN and self._draft is not None:
            sequence.unguessed("the draft model is not right often enough")
            return found, min(found.most, _TRIAL) if self._draft.due(sequence) else 0
        taken = self._take(found, count, gain, costs)
        if not taken:
            sequence.unguessed("it would not pay" if found.most else "nothing repeats")
        return found, count if taken else 0

    def _looked_up(self, sequence: Sequence, most: int) -> Guess:
        if sequence.job.speculation == "draft":
            return Guess("lookup", (), (0.0,))
        if sequence.lookup is None:
            sequence.lookup = Lookup(len(sequence.job.tokens))
        sequence.lookup.follow(sequence.tokens)
        tokens, chances = sequence.lookup.guess(sequence.tokens, most)
        return Guess("lookup", tokens, _sums(chances))

    def _take(self, guess: Guess, count: int, gain: float, costs: StepCosts) -> bool:
        """Whether to verify `count` tokens; counts the steps of one kind in a row, where the other was possible."""
        expected = 1.0 + guess.expected[count]
        if self._alike >= _RETRY:
            taken = not self._guessed and expected >= _HOPEFUL
        else:
            taken = count > 0 and (gain >= _GAIN or (expected >= _NEW and not costs.measured(1 + count)))
        if taken != self._guessed:
            self._guessed, self._alike = taken, 0
        elif taken or count:
            self._alike += 1
        return taken

    def _affordable(self, sequence: Sequence, guess: Guess, count: int) -> bool:
        """Whether the answer will have lost little enough to guesses, half of what is expected of this one included."""
        known = guess.by == "draft" or sequence.lookup is None or sequence.lookup.agreed >= _CERTAIN
        if known or sequence.job.speculation != "auto":
            return True
        lost = sequence.debt + self._price - 1.0 - guess.expected[count] / 2
        if lost > _CREDIT + _SHARE * sequence.generated:
            sequence.unguessed("guesses would cost more than they gave")
            return False
        return True

    def _comparison(self, price: float) -> float:
        """Steps of one token that it takes to compare a step of `price` such steps with them."""
        unsure = self._unsure
        if unsure is None:
            return 0.0
        return 1.0 if self._exactness.known(unsure.threads, unsure.count) else 1.0 + price

    def _permitted(self, sequence: Sequence, count: int, room: Room) -> int:
        """How many of `count` tokens leave the text what it is; where nobody knows yet, the next `run` compares."""
        if sequence.job.speculation != "auto" or not sequence.repeatable:
            return count
        if not self._exactness.known(room.threads):
            # A comparison that fails costs two steps: short ones, as long as none has succeeded.
            count = 1
        asked = Question(room.threads, count, room.used + count, room.used - sequence.pos)
        verdict = self._exactness.verdict(asked)
        if verdict is None:
            self._unsure = asked
        if verdict is False:
            sequence.unguessed(_ROUNDS)
            return 0
        return count

    def _tokens(self, sequence: Sequence, guess: Guess, count: int) -> list[int]:
        if count and guess.by == "draft" and self._draft is not None:
            return self._draft.propose(sequence, count)
        return list(guess.tokens[:count])

    def run(self, plan: Plan, interrupt: Interrupt | None) -> Ran:
        """Run a plan, where need be after comparing; without its guesses, where they would change the text."""
        unsure, self._unsure = self._unsure, None
        if unsure is None or len(plan) != 1 or len(plan[0][1].tokens) != 1 + unsure.count:
            return Ran(plan, self._engine.step([part for _, part in plan], interrupt))
        (sequence, part), begun = plan[0], time.monotonic()
        alone = self._alone(part, ends=not self._exactness.known(unsure.threads, unsure.count))
        aside = time.monotonic() - begun
        rows = _only(self._engine.step([part]))
        alike = all(bool((rows[at] == row[0]).all()) for at, row in alone.items())
        self._exactness.note(unsure, alike=alike)
        if alike:
            return Ran(plan, [rows], aside)
        sequence.unguessed(_ROUNDS)
        sequence.debt += self._price
        self._engine.trim(part.seq, part.pos)
        aside = time.monotonic() - begun
        single = Slice(part.seq, part.tokens[:1], part.pos, "last")
        return Ran([(sequence, single)], [_only(self._engine.step([single]))], aside)

    def _alone(self, part: Slice, *, ends: bool) -> dict[int, Floats]:
        """The logits of the first token of `part` in a step of its own, and where `ends` those of the last one too."""
        last = len(part.tokens) - 1
        rows = {0: self._single(part, 0)}
        if ends:
            if last > 1:
                self._engine.step([Slice(part.seq, part.tokens[1:last], part.pos + 1, "none")])
            rows[last] = self._single(part, last)
        self._engine.trim(part.seq, part.pos)
        return rows

    def _single(self, part: Slice, at: int) -> Floats:
        (result,) = self._engine.step([Slice(part.seq, part.tokens[at : at + 1], part.pos + at, "last")])
        return _only([result]).copy()

    def judge(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Note what came of the guesses of one step."""
        sequence.guesses = sequence.guesses.and_then(drafted, accepted, self._by, self._price)
        sequence.debt = max(-_SAVED, sequence.debt + self._price - 1.0 - accepted)
        if self._draft is not None:
            self._draft.judge(sequence, accepted)


def _only(results: list[Floats | None]) -> Floats:
    assert results[0] is not None
    return results[0]


def _sums(chances: Tokens[float]) -> list[float]:
    sums, every = [0.0], 1.0
    for chance in chances:
        every *= chance
        sums.append(sums[-1] + every)
    return sums


def _best(guess: Guess, costs: StepCosts) -> tuple[int, float]:
    """How many guessed tokens to add to a step of one, and how many times its tokens per second that gives."""
    most = guess.most
    if most < 1 or 1.0 + guess.expected[most] < _GAIN:
        return 0, 1.0
    counts = [n for n in _LENGTHS if n <= most]
    plain, *longer = costs.estimates([1, *(1 + n for n in counts)])
    best, gain = 0, 0.0
    for count, seconds in zip(counts, longer, strict=True):
        better = (1.0 + guess.expected[count]) * plain / (seconds + count * guess.seconds)
        if better > gain:
            best, gain = count, better
    return best, gain
