"""One sequence of one job, from prompt to last token: what it holds, draws and says. Knows no other sequence."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from backends import repetition
from backends.constrain import Constraints, Matcher
from backends.contract import EngineInfo, Finish, FinishReason, Job, Rejected, Sampling, Token, Usage
from backends.engine import Floats, Tokenizer
from backends.errors import BackendError, InvalidJob, PromptTooLong
from backends.guesses import Guesses
from backends.kv_frames import Tier
from backends.kv_paging import PagedUse
from backends.lookup import Lookup
from backends.sampling import Sampler, logprobs
from backends.textstream import TextStream

MAX_ACTIVE = 16
"""Sequences of one engine that run at once."""
_NEVER = float("-inf")


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is prompt and answer; the KV cache holds `tokens[:pos]` under number `seq` while that is not None.

    Times are monotonic seconds. `siblings` are the other choices of the job, which fork off when the prompt is done.
    `scored` counts the prompt tokens whose log-probabilities have been reported. A draft model is right with
    `draft_chance`, and tried again at `draft_next` generated tokens. `debt` counts the steps of one token that guesses
    have cost beyond what they gave.
    """

    job: Job
    index: int
    tokens: list[int]
    sampler: Sampler | None
    matcher: Matcher | None
    stream: TextStream
    submitted: float
    siblings: list[Sequence] = field(default_factory=list)
    seq: int | None = None
    pos: int = 0
    cached: int = 0
    cached_by_tier: dict[Tier, int] = field(default_factory=dict)
    restore_s: float = 0.0
    generated: int = 0
    admitted: float | None = None
    prompt_done: float | None = None
    first_token: float | None = None
    last_served: float = 0.0
    last_progress: float = 0.0
    scored: int = 0
    embedding: Floats | None = None
    lookup: Lookup | None = None
    guesses: Guesses = Guesses(unguessed="it had no step to itself")
    draft_chance: float = 0.7
    draft_next: int = 0
    draft_wait: int = 0
    debt: float = 0.0
    paged: PagedUse | None = None
    note: str = ""

    @property
    def remaining(self) -> int:
        """Tokens known but not yet in the cache; 1 means that the next step decodes."""
        return len(self.tokens) - self.pos

    @property
    def prefilling(self) -> bool:
        return self.remaining > 1 or self.prompt_done is None

    @property
    def width(self) -> int:
        """Sequence numbers that it takes or will take: its own and one for each choice still to fork off."""
        return 1 + len(self.siblings)

    @property
    def repeatable(self) -> bool:
        """Whether the same request gives the same text: that must hold with guesses too."""
        seed = self.job.sampling.seed
        return self.sampler is None or self.sampler.greedy or (seed is not None and seed >= 0)

    def unguessed(self, why: str) -> None:
        """Note why nobody guesses; it stands as long as nobody has."""
        if not self.guesses.by:
            self.guesses = Guesses(unguessed=why)

    def set_back(self) -> None:
        """Start over from the first token, because the cells were given to another."""
        self.seq, self.pos, self.embedding = None, 0, None

    def deadline_passed(self, now: float) -> bool:
        return self.job.deadline is not None and now - self.submitted > self.job.deadline

    def draw(self, row: Floats, tokenizer: Tokenizer) -> tuple[Token | None, FinishReason | None]:
        """Sample from logits of shape (n_vocab,): the token to report, and why the sequence ends, if it does."""
        assert self.sampler is not None
        job = self.job
        masked = self.matcher.mask(row) if self.matcher else row
        token = self.sampler.sample(masked)
        if token in tokenizer.eog and not job.ignore_eos:
            return None, "stop"
        self.sampler.accept(token)
        if self.matcher:
            self.matcher.accept(token)
        self.tokens.append(token)
        self.generated += 1
        if self.first_token is None:
            self.first_token = time.monotonic()
        text = self.stream.push(self._visible(token, tokenizer))
        scored = None if job.logprobs is None else logprobs(row, token, job.logprobs, tokenizer.raw_piece)
        return Token(job.id, self.index, token, text, scored), self._end(tokenizer)

    def _visible(self, token: int, tokenizer: Tokenizer) -> bytes:
        piece = tokenizer.piece(token)
        if not piece and self.job.markers:
            raw = tokenizer.raw_piece(token)
            if raw.decode("utf-8", "replace") in self.job.markers:
                return raw
        return piece

    def _end(self, tokenizer: Tokenizer) -> FinishReason | None:
        if self.stream.stopped is not None or (self.matcher is not None and self.matcher.done):
            return "stop"
        if self.job.max_tokens is not None and self.generated >= self.job.max_tokens:
            return "length"
        if self.job.repetition_stop and self.generated % repetition.EVERY == 0:
            size = repetition.cycle(self.tokens[-self.generated :])
            if size is not None:
                self.note = repetition.words(size, self.generated)
                return "length"
        return None

    def usage(self, now: float) -> Usage:
        started = self.admitted if self.admitted is not None else now
        prefilled = self.prompt_done if self.prompt_done is not None else now
        return Usage(
            prompt_tokens=len(self.job.tokens),
            cached_tokens=self.cached,
            completion_tokens=self.generated,
            queue_s=started - self.submitted,
            prefill_s=max(0.0, prefilled - started - self.restore_s),
            restore_s=self.restore_s,
            cached_by_tier=self.cached_by_tier,
            decode_s=max(0.0, now - prefilled),
            first_token_at=self.first_token,
            guesses=self.guesses if self.sampler is not None else Guesses(),
            paged=self.paged,
        )

    def add_paged(self, use: PagedUse) -> None:
        """Note what a step took; what is held is as of now."""
        before = self.paged
        self.paged = use if before is None else use.after(before)

    def finish(self, reason: FinishReason) -> Finish:
        """The closing event; held-back text is part of the answer unless a stop string swallowed it."""
        text = self.stream.flush()
        return Finish(
            job=self.job.id,
            index=self.index,
            # A stop string at the very end is only certain now.
            reason="stop" if self.stream.stopped is not None and reason == "length" else reason,
            text=text,
            stop=self.stream.stopped,
            usage=self.usage(time.monotonic()),
            note=self.note,
        )

    def close(self) -> None:
        """Free the sampler's memory, and the siblings' too."""
        if self.sampler is not None:
            self.sampler.close()
        for sibling in self.siblings:
            sibling.close()


def prepare(job: Job, info: EngineInfo, tokenizer: Tokenizer, constraints: Constraints) -> Sequence:
    """Check a job and build its sequences, the first carrying the others as siblings.

    Raises PromptTooLong, or InvalidJob for whatever else this engine cannot honour.
    """
    _check(job, info)
    if job.kind == "embed":
        return Sequence(job, 0, list(job.tokens), None, None, TextStream(()), time.monotonic())
    matcher = constraints.compile(job.grammar) if job.grammar is not None else None
    sampling = _without_end(job.sampling, tokenizer) if job.ignore_eos else job.sampling
    made = []
    for index in range(job.n):
        vocabulary = tokenizer.pointer if sampling.dry_multiplier > 0.0 else None
        sampler = Sampler(sampling, vocabulary, info.n_vocab, info.n_ctx_train, index)
        sampler.accept_prompt(job.tokens)
        own = matcher if matcher is None or index == 0 else matcher.clone()
        made.append(Sequence(job, index, list(job.tokens), sampler, own, TextStream(job.stop), time.monotonic()))
    made[0].siblings = made[1:]
    return made[0]


def _without_end(sampling: Sampling, tokenizer: Tokenizer) -> Sampling:
    return Sampling(
        **{name: getattr(sampling, name) for name in Sampling.__struct_fields__ if name != "logit_bias"},
        logit_bias={**sampling.logit_bias, **dict.fromkeys(tokenizer.eog, _NEVER)},
    )


def _check(job: Job, info: EngineInfo) -> None:
    if not job.tokens:
        raise InvalidJob("the prompt is empty", "send at least one token")
    if min(job.tokens) < 0 or max(job.tokens) >= info.n_vocab:
        raise InvalidJob(f"a prompt token is outside 0..{info.n_vocab - 1}", "tokenize with this model's vocabulary")
    generates = job.kind == "generate" and job.max_tokens != 0
    if len(job.tokens) + generates > info.n_ctx:
        raise PromptTooLong(len(job.tokens), info.n_ctx)
    needed = "prompt_logprobs" if job.prompt_logprobs is not None else job.kind
    if needed not in info.capabilities:
        hint = "an embedding model only embeds" if needed == "generate" else "choose another model"
        raise InvalidJob(f"this model on {info.backend} has no {needed.replace('_', ' ')}", hint)
    most = min(MAX_ACTIVE, max(1, info.n_seq // 2)) if job.kind == "generate" else 1
    if not 1 <= job.n <= most:
        raise InvalidJob(f"n is {job.n}; this engine takes 1 to {most}", "ask for fewer choices")
    if job.n > 1 and "fork" not in info.capabilities:
        raise InvalidJob("this model cannot share a prompt among choices", "send n=1, several times")
    if (job.max_tokens or 0) < 0:
        raise InvalidJob(f"max_tokens is {job.max_tokens}", "send 0 or more")
    if job.speculation == "draft" and "draft" not in info.capabilities:
        hint = "name a draft model with --draft or in models.toml, or ask for speculation auto"
        raise InvalidJob("this model has no draft model to guess for it", hint)
    if job.adapters and "adapters" not in info.capabilities:
        hint = "use the base alone, or a generating model on llama.cpp"
        raise InvalidJob(f"this model on {info.backend} takes no adapters", hint)


def rejection(job: int, error: BackendError) -> Rejected:
    """An error as a frame; `errors.rebuild` is the way back."""
    numbers = (error.prompt_tokens, error.context) if isinstance(error, PromptTooLong) else ()
    return Rejected(job=job, kind=error.kind, message=error.message, hint=error.hint, numbers=numbers)
