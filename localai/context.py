"""A request and the engine that serves it in, a job that fits its context out: template, tokens, grammar, parser.

Nothing is cut silently: a prompt that does not fit is refused with both numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from backends.contract import EngineInfo, Grammar, Job
from backends.handle import EngineHandle
from localai.errors import BadRequest, ContextExceeded
from localai.messages import TurnRequest
from localai.templates import ChatTemplate
from localai.toolcalls import OutputParser
from localai.toolformats import detect
from localai.toolgrammar import tool_grammar


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes to the engine, the text it was made of, and how to read each answer (None: as it is)."""

    job: Job
    text: str
    parser: Callable[[], OutputParser] | None


async def render(request: TurnRequest, engine: EngineHandle) -> Prompt:
    """Build the job. Raises BadRequest, ContextExceeded, or what the template or engine reports."""
    info = engine.info
    _refuse_what_is_missing(request, info)
    if request.kind == "chat":
        return await _chat(request, engine)
    if request.prompt_tokens is not None:
        tokens = list(request.prompt_tokens)
        text = await engine.detokenize(tokens) if request.echo else ""
    elif request.suffix is not None:
        text = request.prompt or ""
        tokens = await _fill_in_the_middle(text, request.suffix, engine)
    else:
        text = request.prompt or ""
        tokens = await engine.tokenize(text, special=request.kind == "completion", add_bos=True)
    return Prompt(_job(request, tokens, request.grammar, (), info), text, None)


async def _chat(request: TurnRequest, engine: EngineHandle) -> Prompt:
    info = engine.info
    template = _template(info.chat_template, info.bos, info.eos)
    tools = request.tools if request.tool_choice.mode != "none" else ()
    tool_format, reasoning = detect(info.chat_template or "", info.architecture)
    text = template.render(request.messages, tools=tools, think=request.think)
    # A template that writes the BOS token itself must not get a second one.
    tokens = await engine.tokenize(text, special=True, add_bos=info.add_bos and not text.startswith(info.bos or "\0"))
    in_reasoning = reasoning is not None and template.opens_reasoning
    grammar = request.grammar
    forced = bool(tools) and request.tool_choice.mode == "required"
    if forced:
        grammar = tool_grammar(
            tool_format,
            tools,
            request.tool_choice,
            request.parallel_tool_calls,
            special=info.control_tokens,
            reasoning=reasoning,
            starts_in_reasoning=in_reasoning,
        )

    def parser() -> OutputParser:
        return OutputParser(
            tool_format, reasoning=reasoning, starts_in_reasoning=in_reasoning, tools=tools, forced=forced
        )

    return Prompt(_job(request, tokens, grammar, parser().markers, info), text, parser)


async def _fill_in_the_middle(prefix: str, suffix: str, engine: EngineHandle) -> list[int]:
    fim = engine.info.fim
    missing = {"prefix", "suffix", "middle"} - fim.keys()
    if missing:
        raise BadRequest(
            "this model has no fill-in-the-middle tokens, so it cannot use `suffix`",
            "leave `suffix` out, or use a code model such as qwen2.5-coder",
            param="suffix",
        )
    before = await engine.tokenize(prefix, special=False, add_bos=False)
    after = await engine.tokenize(suffix, special=False, add_bos=False)
    return [fim["prefix"], *before, fim["suffix"], *after, fim["middle"]]


def _refuse_what_is_missing(request: TurnRequest, info: EngineInfo) -> None:
    wanted = "embed" if request.kind == "embedding" else "generate"
    if wanted not in info.capabilities:
        what = "makes embeddings only" if wanted == "generate" else "makes no embeddings"
        raise BadRequest(f"this model {what}", "choose another model: `localai models list`", param="model")


def _job(
    request: TurnRequest, tokens: list[int], grammar: Grammar | None, markers: tuple[str, ...], info: EngineInfo
) -> Job:
    answer = request.kind != "embedding" and request.max_tokens != 0
    if len(tokens) + answer > info.n_ctx:
        raise ContextExceeded(len(tokens), info.n_ctx)
    return Job(
        id=0,
        kind="embed" if request.kind == "embedding" else "generate",
        tokens=tokens,
        sampling=request.sampling,
        grammar=grammar,
        max_tokens=request.max_tokens,
        stop=request.stop,
        n=request.n,
        priority=request.priority,
        deadline=request.deadline,
        logprobs=request.logprobs,
        prompt_logprobs=request.prompt_logprobs,
        ignore_eos=request.ignore_eos,
        markers=markers,
        conversation=request.conversation,
    )


@lru_cache(maxsize=16)
def _template(source: str | None, bos: str, eos: str) -> ChatTemplate:
    return ChatTemplate(source, bos, eos) if source else ChatTemplate.fallback(eos)
