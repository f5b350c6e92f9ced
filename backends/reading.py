"""Prompts that are read out instead of continued: what a step gave for one becomes its event."""

from __future__ import annotations

from backends.contract import Embedding, PromptLogprobs
from backends.engine import Floats, Slice, Tokenizer
from backends.sampling import logprobs
from backends.sequences import Sequence


def gather(sequence: Sequence, result: Floats) -> None:
    """Add the sum of the states of one more part of the prompt, shape (1, n_embd)."""
    sequence.embedding = result.copy() if sequence.embedding is None else sequence.embedding + result


def embedding(sequence: Sequence, now: float) -> Embedding:
    """The unit vector of a prompt that has been read to its end."""
    assert sequence.embedding is not None
    total = sequence.embedding[0]
    norm = float((total**2).sum()) ** 0.5
    unit = total / norm if norm else total
    return Embedding(job=sequence.job.id, vector=unit.astype("<f4").tobytes(), usage=sequence.usage(now))


def score(sequence: Sequence, part: Slice, rows: Floats, tokenizer: Tokenizer) -> list[PromptLogprobs]:
    """The log-probabilities of the prompt tokens that `rows` predict, one row for each token of `part`; [] for none."""
    top = sequence.job.prompt_logprobs or 0
    known = max(0, sequence.scored - part.pos)
    targets = sequence.job.tokens[part.pos + 1 + known : part.pos + 1 + len(part.tokens)]
    pairs = zip(rows[known:], targets, strict=False)
    scored = [logprobs(row, token, top, tokenizer.raw_piece) for row, token in pairs]
    sequence.scored = max(sequence.scored, part.pos + len(scored) + known)
    return [PromptLogprobs(sequence.job.id, scored)] if scored else []
