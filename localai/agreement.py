"""Does a backend compute what the model's weights say? A fixed text and two engines' scores in, a judgement out. Pure.

llama.cpp is the reference. Backends that round differently disagree a little everywhere; one that errs is far off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backends.contract import TokenLogprob
from localai.calibration_store import Fidelity, Scores

MOST_RATIO = 1.03
"""Perplexity above the reference's by more than this factor is not rounding: 8-bit copies stay within 1.005."""
LEAST_AGREEMENT = 0.90
"""Share of tokens with the same likeliest id; two sound engines stand at 0.95 to 0.98, and 0.02 of that is chance."""

PROSE = """\
The harbour wakes before the town does. Long before the bakery lights its ovens, two old men carry nets down the stone
steps and argue, as they have every morning for thirty years, about the weather. One of them trusts the clouds over the
northern hills; the other trusts his left knee. On most days both are wrong, and the sea does what it likes.

By six o'clock the first boats are out. From the lighthouse they look like seeds scattered on grey cloth. The keeper,
a woman named Ingrid who studied mathematics before she came here, counts them twice and writes the number in a book.
She has filled eleven such books. When a visitor once asked why, she said that counting is the oldest way of caring:
you only notice that something is missing if you knew how many there were.

In 1987 a storm took three boats in one night. The book of that year has a page on which the number in the evening is
smaller than the number in the morning, and nothing else is written there. After that winter the town bought a radio
for every boat, built a longer wall, and agreed that nobody would sail when the red lamp was lit, whatever the price of
cod might be. Rules that cost money are seldom loved, but this one has been kept.

The school stands on the hill behind the church. Its pupils learn to tie knots before they learn to divide fractions,
and the teacher sees no reason to change the order. "A fraction never drowned anyone," he says. He sets them problems
all the same: if a net has 40 meshes to the metre and is 25 metres long, how many meshes must be mended when a seal has
torn every eighth one? The answer is 125, and somebody always says 124, because the last knot belongs to the neighbour.

Visitors come in summer. They photograph the boats, eat fish soup, and ask where the old customs have gone. Nobody
tells them that the custom is still there: it is the red lamp, the book in the lighthouse, and two old men on the steps.
"""


def scores_of(ids: Sequence[int], scored: Sequence[TokenLogprob]) -> Scores | None:
    """An engine's reading of the text `ids`; None where a probability is no number."""
    known = [token for token in scored if token.logprob is not None]
    surprise = -sum(token.logprob or 0.0 for token in known)
    if not known or not math.isfinite(surprise):
        return None
    return Scores(tuple(ids), surprise, tuple(token.top[0].id if token.top else -1 for token in known))


def perplexity(scores: Scores) -> float:
    """Of the text, per token."""
    return math.exp(scores.surprise / max(1, len(scores.likeliest)))


def compare(scores: Scores, reference: Scores | None) -> tuple[Fidelity, str]:
    """How faithful an engine is, and why it must not be used ('' where it may)."""
    own = perplexity(scores)
    if reference is None:
        return Fidelity(own), ""
    if scores.ids != reference.ids:
        return Fidelity(own), "it splits text into other tokens than llama.cpp does"
    ratio = own / perplexity(reference)
    pairs = list(zip(scores.likeliest, reference.likeliest, strict=False))
    agreement = sum(a == b for a, b in pairs) / max(1, len(pairs))
    judged = Fidelity(own, ratio, agreement)
    if ratio > MOST_RATIO or agreement < LEAST_AGREEMENT:
        return judged, (
            f"it computes something else than llama.cpp with the same weights: perplexity {100 * (ratio - 1):+.1f} %, "
            f"{100 * agreement:.0f} % of the likeliest tokens alike"
        )
    return judged, ""
