"""What crosses the border between the daemon and an engine child; `engine` says what the child runs.

Frames are msgspec structs, frozen and tagged; times are seconds, of the monotonic clock where they are points in time.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.guesses import Guesses, Speculation
from backends.kv_frames import Evicted, KvGrant, KvReport, Purge, Purged, Tier
from backends.kv_paging import PagedUse, Paging
from backends.paging_report import WeightsReport

Priority = Literal["interactive", "normal", "background"]
FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "gbnf"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn. The neutral value of each field switches that stage off.

    In llama.cpp's order: logit bias, penalties, DRY, top-k, typical, top-p, min-p, temperature, draw (or mirostat).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Grammar(msgspec.Struct, frozen=True):
    """A language that the output must stay inside; `text` is the schema, expression or grammar."""

    kind: GrammarKind
    text: str


class Adapter(msgspec.Struct, frozen=True, array_like=True):
    """A LoRA adapter's file and the strength to apply it with; a new `stamp` says that the file is another one now."""

    path: str
    scale: float = 1.0
    stamp: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One request to an engine.

    `tokens` is the whole prompt, shape (prompt,). `n` sequences are forked from it. `deadline` counts seconds from
    submission. `logprobs` is None for none, else how many alternatives to report beside the chosen token.
    `markers` are control tokens that stay visible in the text; all others are hidden. `adapters` are added to the
    model for this job alone. Jobs of different `salt` share nothing in the KV cache. `singly` computes a prompt as an
    answer is computed, a token per step. `speculation` says who may guess tokens ahead: `auto` is whoever pays, as long
    as the text stays what it is without; `lookup` (in the text so far) and `draft` (a small model) also where that does
    not pay, and where a step of several tokens rounds otherwise. `repetition_stop` ends
    answers that go round in circles.
    """

    id: int
    kind: Literal["generate", "embed"] = "generate"
    tokens: list[int]
    sampling: Sampling = Sampling()
    grammar: Grammar | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    priority: Priority = "normal"
    deadline: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    markers: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    conversation: str | None = None
    speculation: Speculation = "auto"
    salt: str = ""
    singly: bool = False
    repetition_stop: bool = False


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop this job at the next step."""

    job: int


class Tokenize(msgspec.Struct, frozen=True, tag=True):
    """Ask for the ids of `text`; `special` lets control tokens written in it count as such."""

    id: int
    text: str
    special: bool
    add_bos: bool


class Detokenize(msgspec.Struct, frozen=True, tag=True):
    """Ask for the text of `tokens`."""

    id: int
    tokens: list[int]


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first frame to a child: which file to open, and how.

    `n_ctx` is the longest sequence to serve, in tokens; `prove` asks for the self-test of untried settings. `rates` are
    decode rates in token/s by thread count; where there are none, they are measured. `kv` is what the KV cache outside
    the cells may take. `digest` names the weights, '' where nobody vouches for them. `mode` is how a backend computes
    with the weights, by the backend's own name for it ('' for its most faithful one); `cache` is a folder for what a
    backend derives from the weights, '' for none. `rpc` are workers on other machines, as host:port.
    `weights` is how many bytes of the weights may be resident, 0 where all of them fit; see `paging`. `draft` is the
    file of a small model that guesses, '' for none; `speculation` is for jobs whose senders leave it open.
    """

    backend: str
    path: str
    n_ctx: int
    mode: str = ""
    cache: str = ""
    n_seq: int = 16
    threads: int = 0
    kv_type: str = "f16"
    extra_bufts: bool = True
    gpu_layers: int = -1
    prove: bool = False
    rates: dict[int, float] = {}
    kv: KvGrant = KvGrant()
    paging: Paging = Paging()
    digest: str = ""
    weights: int = 0
    step_seconds: float = 0.15
    draft: str = ""
    speculation: Speculation = "auto"
    rpc: tuple[str, ...] = ()


class Alternative(msgspec.Struct, frozen=True, array_like=True):
    """One candidate token with its log-probability (natural log, of the unmodified distribution)."""

    id: int
    piece: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The chosen (or given) token's log-probability, None for a prompt's first token, and the best alternatives."""

    id: int
    piece: bytes
    logprob: float | None
    top: list[Alternative]


class Token(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One sampled token: `text` is what became certain with it, valid UTF-8 and free of stop strings, often ''."""

    job: int
    index: int
    id: int
    text: str
    logprob: TokenLogprob | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one sequence took. Counts are tokens; `*_s` are seconds; `first_token_at` is monotonic time or None."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    restore_s: float = 0.0
    cached_by_tier: dict[Tier, int] = {}
    first_token_at: float | None = None
    guesses: Guesses = Guesses()
    paged: PagedUse | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """A sequence has ended; `text` is the last held-back text, `stop` the stop string that ended it."""

    job: int
    index: int
    reason: FinishReason
    text: str = ""
    stop: str | None = None
    usage: Usage
    note: str = ""


class Rejected(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """A job that ends in an error; see `errors.rebuild`."""

    job: int
    kind: str
    message: str
    hint: str
    numbers: tuple[int, ...] = ()


class Embedding(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """The answer to an `embed` job: float32 bytes of a unit vector of shape (width,)."""

    job: int
    vector: bytes
    usage: Usage


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Log-probabilities of the next prompt tokens of a job, in order."""

    job: int
    tokens: list[TokenLogprob]


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How many of a job's prompt tokens are in the cache now."""

    job: int
    done: int
    total: int


class Share(msgspec.Struct, frozen=True, array_like=True):
    """One job's part of a step: tokens prefilled, tokens decoded, context length after it.

    `drafted` tokens were guessed and verified beside the one that was due; the `accepted` ones are among the decoded.
    """

    job: int
    prefilled: int
    decoded: int
    context: int
    drafted: int = 0
    accepted: int = 0


class StepRecord(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Who used one engine step: t0 and t1 monotonic seconds, CPU seconds of the child, and each job's share.

    `switch_s` of the seconds went into changing the adapters; None where the step did not begin with that.
    """

    t0: float
    t1: float
    cpu_s: float
    threads: int
    shares: list[Share]
    switch_s: float | None = None


Event = Token | Finish | Rejected | Embedding | PromptLogprobs | Progress


class Output(msgspec.Struct, frozen=True, tag=True):
    """All that one turn of the step loop produced; `record` is None where no engine step ran."""

    events: list[Event]
    record: StepRecord | None


class Ids(msgspec.Struct, frozen=True, tag=True):
    """The answer to Tokenize."""

    id: int
    tokens: list[int]


class Text(msgspec.Struct, frozen=True, tag=True):
    """The answer to Detokenize."""

    id: int
    text: str


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Loading has reached `name`, `fraction` of it done (0 to 1)."""

    name: str
    fraction: float


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded engine is. Bytes are as allocated; `n_ctx` is served, `n_ctx_train` what the model was made for.

    `n_batch` is the most tokens in a step, `max_rows` the most positions of a step whose logits or states are read.
    `verifies` is the most tokens of one sequence whose logits a step can give as steps of one would; 0 for none.
    `kv_identity` is all but the weights that changes the bytes of its KV, {} where that must not outlive the process.
    """

    backend: str
    version: str
    architecture: str
    description: str
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    n_seq: int
    n_batch: int
    max_rows: int
    verifies: int = 0
    weight_bytes: int
    kv_bytes: int
    compute_bytes: int
    chat_template: str | None
    bos: str
    eos: str
    add_bos: bool
    fim: dict[str, int]
    control_tokens: dict[str, int]
    capabilities: frozenset[str]
    settings: dict[str, str | int | bool]
    load_stages: dict[str, float] = {}
    kv_identity: dict[str, str] = {}


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Loading ended well; jobs are taken from now on.

    `rss` is the child's resident memory in bytes, `rates` the decode rates in token/s by thread count.
    """

    info: EngineInfo
    rss: int
    rates: dict[int, float]


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """Loading ended in an error that the child could name; the child exits after it."""

    kind: str
    message: str
    hint: str


class Pace(msgspec.Struct, frozen=True, tag=True):
    """From now on rest after each engine step, for `rest` times as long as it took."""

    rest: float


class Sequences(msgspec.Struct, frozen=True, tag=True):
    """The child's own counts: sequences that wait and run, numbers that hold cells for them, kept for later, or free.

    While nothing is asked, `waiting`, `running` and `active` are 0, and `kept` and `free` together are `n_seq`.
    """

    waiting: int
    running: int
    active: int
    kept: int
    free: int


ToChild = Load | Job | Cancel | Tokenize | Detokenize | Evicted | Pace | Purge
FromChild = Stage | Ready | LoadFailed | Output | Ids | Text | KvReport | Purged | WeightsReport | Sequences
