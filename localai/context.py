"""A request and the engine that serves it in, a job that fits its context out: template, tokens, grammar, parser.

Nothing is cut silently: a prompt that does not fit is refused with both numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from backends.contract import EngineInfo, Grammar, Job, Sampling
from backends.errors import BackendError
from backends.handle import EngineHandle, new_number
from localai.choice import Choice
from localai.errors import BadRequest, ContextExceeded, from_backend
from localai.infill import Neighbour, laid_out, markers
from localai.messages import TurnRequest
from localai.presets import Preset
from localai.rendering import rendered
from localai.toolcalls import OutputParser
from localai.toolgrammar import tool_grammar

_USUAL_INFILL = 128


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes to the engine, the text it was made of, and how to read each answer (None: as it is)."""

    job: Job
    text: str
    parser: Callable[[], OutputParser] | None


@dataclass(frozen=True, slots=True)
class _Content:
    """A prompt as text and tokens, what the answer must stay inside, and how to read it."""

    text: str
    tokens: list[int]
    grammar: Grammar | None
    parser: Callable[[], OutputParser] | None = None


async def render(
    request: TurnRequest, engine: EngineHandle, choice: Choice, *, repetition_stop: bool = False
) -> Prompt:
    """Build the job; what the client left open is filled with what is recommended for the chosen model.

    Raises BadRequest, ContextExceeded, or what the template or engine reports.
    """
    info = engine.info
    request = _completed(request, choice.preset)
    _refuse_what_is_missing(request, info)
    try:
        content = await (_chat(request, engine, choice.system) if request.kind == "chat" else _plain(request, engine))
    except BackendError as error:
        raise from_backend(error) from error
    answer = request.kind != "embedding" and request.max_tokens != 0
    if len(content.tokens) + answer > info.n_ctx:
        raise ContextExceeded(len(content.tokens), info.n_ctx)
    sampling = Sampling(**{**choice.sampling, **request.sampling})
    speculation = request.speculation or engine.order.speculation
    job = _job(request, content, sampling)
    # Whoever wants no end, or a form that repeats, gets it.
    guarded = repetition_stop and request.repetition_stop and not request.ignore_eos and content.grammar is None
    job = msgspec.structs.replace(job, adapters=choice.adapters, speculation=speculation, repetition_stop=guarded)
    return Prompt(job, content.text, content.parser)


def _completed(request: TurnRequest, preset: Preset) -> TurnRequest:
    """What the client left open, as the preset has it."""
    if not (preset.stop or preset.max_tokens):
        return request
    limit = preset.max_tokens if request.max_tokens is None else request.max_tokens
    return replace(request, stop=request.stop or preset.stop, max_tokens=limit)


async def _plain(request: TurnRequest, engine: EngineHandle) -> _Content:
    text = request.prompt or ""
    if request.prompt_tokens is not None:
        tokens = list(request.prompt_tokens)
        text = await engine.detokenize(tokens) if request.echo else ""
    elif request.suffix is not None:
        tokens = await _fill_in_the_middle(request, engine)
    else:
        tokens = await engine.tokenize(text, special=request.kind == "completion", add_bos=True)
    return _Content(text, tokens, request.grammar)


async def _chat(request: TurnRequest, engine: EngineHandle, system: str | None) -> _Content:
    info = engine.info
    tools = request.tools if request.tool_choice.mode != "none" else ()
    template, pieces = await rendered(request, tools, info, system)
    text = "".join(piece.text for piece in pieces)
    in_reasoning = template.starts_in_reasoning(text)
    # A template that writes the BOS token itself must not get a second one.
    add_bos = info.add_bos and not text.startswith(info.bos or "\0")
    tokens: list[int] = []
    for piece in pieces:
        tokens += await engine.tokenize(piece.text, special=piece.special, add_bos=add_bos and not tokens)
    forced = bool(tools) and request.tool_choice.mode == "required"
    grammar = request.grammar
    if forced:
        grammar = tool_grammar(
            template.tool_format,
            tools,
            request.tool_choice,
            request.parallel_tool_calls,
            special=info.control_tokens,
            reasoning=template.reasoning_format,
            starts_in_reasoning=in_reasoning,
        )
    parser = partial(
        OutputParser,
        template.tool_format,
        reasoning=template.reasoning_format,
        starts_in_reasoning=in_reasoning,
        tools=tools,
        forced=forced,
    )
    return _Content(text, tokens, grammar, parser)


async def _fill_in_the_middle(request: TurnRequest, engine: EngineHandle) -> list[int]:
    info = engine.info
    known = markers(info.fim, info.control_tokens)
    if known is None:
        raise BadRequest(
            "this model has no fill-in-the-middle tokens, so it cannot use `suffix`",
            "leave `suffix` out, or use a code model such as qwen2.5-coder",
            param="suffix",
        )
    plain = partial(engine.tokenize, special=False, add_bos=False)
    whole = request.prompt or ""
    line = whole.rfind("\n") + 1
    before, typed, after = await plain(whole[:line]), await plain(whole[line:]), await plain(request.suffix or "")
    # As long as the answer may become, and never more than half of the context, so that the cursor's file comes first.
    answer = request.max_tokens if request.max_tokens is not None else _USUAL_INFILL
    room = min(info.n_ctx - len(before) - len(typed) - len(after) - answer - 8, info.n_ctx // 2)
    near = [Neighbour(await plain(f"{name}\n"), await plain(f"{text}\n")) for name, text in request.neighbours]
    bos = await engine.tokenize("", special=False, add_bos=True)
    here = await plain("current file\n") if near else []
    return laid_out(known, before, after, near, bos=bos, here=here, room=room, typed=typed)


def _refuse_what_is_missing(request: TurnRequest, info: EngineInfo) -> None:
    wanted = "embed" if request.kind == "embedding" else "generate"
    if wanted not in info.capabilities:
        what = "makes embeddings only" if wanted == "generate" else "makes no embeddings"
        raise BadRequest(f"this model {what}", "choose another model: `localai models list`", param="model")


def _job(request: TurnRequest, content: _Content, sampling: Sampling) -> Job:
    return Job(
        id=new_number(),
        kind="embed" if request.kind == "embedding" else "generate",
        tokens=content.tokens,
        sampling=sampling,
        grammar=content.grammar,
        max_tokens=request.max_tokens,
        stop=request.stop,
        n=request.n,
        priority=request.priority,
        deadline=request.deadline,
        logprobs=request.logprobs,
        prompt_logprobs=request.prompt_logprobs,
        ignore_eos=request.ignore_eos,
        markers=content.parser().markers if content.parser else (),
        conversation=request.conversation,
        salt=request.cache_salt,
    )
