"""Turn events to OpenAI's answers: whole ones and chunks. Pure, but for ids and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from backends.contract import TokenLogprob
from localai.api.served import served_context
from localai.api.wire import data, now, timings_json, waiting_comment
from localai.energy.figures import Energy, total
from localai.local_model import LocalModel
from localai.messages import (
    ChoiceDone,
    Delta,
    Picked,
    PromptScored,
    Recalled,
    Started,
    Summary,
    ToolCallDelta,
    TurnEvent,
    Waiting,
)
from localai.turn import Parts
from localai.upstreams.spec import UpstreamSpec

_REASONS = {"cancelled": "stop", "deadline": "length", "error": "stop"}


def models(found: Sequence[LocalModel], parts: Parts) -> list[dict[str, Any]]:
    """The list of /v1/models. `context_length` is what is or would be served."""
    loaded = {s.choice.model.id for s in parts.pool.slots if s.plan is not None}
    return [
        {
            "id": m.id,
            "object": "model",
            "created": int(m.path.stat().st_mtime),
            "owned_by": m.origin,
            "aliases": list(m.spec.aliases) if m.spec else [],
            "context_length": served_context(m, parts),
            "max_context_length": m.header.n_ctx_train,
            "loaded": (m.base or m).id in loaded,
            "base": m.base.id if m.base else None,
            "size": m.size_bytes,
            "quantization": m.header.quant,
        }
        for m in found
        if m.header is not None
    ]


def named(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the list with what Anthropic's clients look for."""
    made = datetime.fromtimestamp(row["created"], UTC).isoformat()
    return {**row, "type": "model", "display_name": row["id"], "created_at": made}


def upstream_models(found: Sequence[tuple[str, UpstreamSpec, int | None]]) -> list[dict[str, Any]]:
    """The models of other machines in the list of /v1/models."""
    return [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": spec.name,
            "aliases": [],
            "context_length": context,
            "max_context_length": context,
            "loaded": False,
            "base": None,
            "size": None,
            "quantization": None,
            "upstream": {"host": spec.host, "fallback": spec.fallback or None},
        }
        for name, spec, context in found
    ]


def usage(summary: Summary) -> dict[str, Any]:
    """Token counts are null where another machine did not tell them."""
    known = summary.counted
    return {
        "prompt_tokens": summary.prompt_tokens if known else None,
        "completion_tokens": summary.completion_tokens if known else None,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens if known else None,
        "prompt_tokens_details": {"cached_tokens": summary.cached_tokens if known else None},
        "energy": summary.energy.as_json() if summary.energy else None,
        **_guesses([summary]),
    }


def _guesses(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Guessed tokens by OpenAI's names for them, where there were any."""
    drafted = sum(s.timings.draft_n for s in summaries)
    right = sum(s.timings.draft_n_accepted for s in summaries)
    counts = {"accepted_prediction_tokens": right, "rejected_prediction_tokens": drafted - right}
    return {"completion_tokens_details": counts} if drafted else {}


def energy(answers: Sequence[Sequence[TurnEvent]]) -> Energy | None:
    """The energy of all answers of one request."""
    return total([e.energy for events in answers for e in events if isinstance(e, Summary)])


def timings(summary: Summary) -> dict[str, Any]:
    shown = timings_json(summary.timings, summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens)
    return shown if summary.counted else shown | dict.fromkeys(("cache_n", "prompt_n", "predicted_n"))


def token(scored: TokenLogprob) -> dict[str, Any]:
    """A token with its log-probability and the best others."""

    def show(piece: bytes) -> dict[str, Any]:
        return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece)}

    top = [{**show(a.piece), "logprob": a.logprob} for a in scored.top]
    return {**show(scored.piece), "logprob": scored.logprob, "top_logprobs": top}


def _calls(deltas: Sequence[ToolCallDelta]) -> list[dict[str, Any]]:
    shown = []
    for call in deltas:
        function: dict[str, Any] = {"arguments": call.arguments}
        if call.name is not None:
            function = {"name": call.name, **function}
        head = {"id": call.id, "type": "function"} if call.id is not None else {}
        shown.append({"index": call.index, **head, "function": function})
    return shown


class _Whole:
    """One choice, gathered."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.logprobs: list[TokenLogprob] = []
        self.reason: str | None = None

    def take(self, delta: Delta) -> None:
        self.content.append(delta.content)
        self.reasoning.append(delta.reasoning)
        self.logprobs.extend(delta.logprobs)
        for call in delta.tool_calls:
            whole = self.calls.setdefault(call.index, {"id": call.id, "name": call.name, "arguments": ""})
            whole["arguments"] += call.arguments

    def message(self) -> dict[str, Any]:
        body: dict[str, Any] = {"role": "assistant", "content": "".join(self.content)}
        if any(self.reasoning):
            body["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            body["content"] = body["content"] or None
            body["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in self.calls.values()
            ]
        return body


def _gathered(events: Sequence[TurnEvent]) -> list[_Whole]:
    choices: dict[int, _Whole] = {}
    for event in events:
        if isinstance(event, Delta | ChoiceDone):
            whole = choices.setdefault(event.index, _Whole(event.index))
            if isinstance(event, Delta):
                whole.take(event)
            else:
                whole.reason = _REASONS.get(event.reason, event.reason)
                # A call that was cut short is told as far as it came, as in a stream: finish_reason says so.
                for broken in sorted(event.broken)[: -1 if event.cut else None]:
                    whole.calls.pop(broken, None)
    return [choices[index] for index in sorted(choices)]


def chat(events: Sequence[TurnEvent]) -> dict[str, Any]:
    """A whole chat.completion."""
    started = next(e for e in events if isinstance(e, Started))
    summary = next(e for e in events if isinstance(e, Summary))
    choices = []
    for whole in _gathered(events):
        scored = {"content": [token(t) for t in whole.logprobs]} if whole.logprobs else None
        choices.append(
            {"index": whole.index, "message": whole.message(), "logprobs": scored, "finish_reason": whole.reason}
        )
    prompt = [_prompt_token(t) for e in events if isinstance(e, PromptScored) for t in e.tokens]
    return {
        **_head("chatcmpl-", "chat.completion", started),
        "choices": choices,
        "usage": usage(summary),
        "timings": timings(summary),
        **_routing(started),
        **recalled(next((event for event in events if isinstance(event, Recalled)), Recalled(()))),
        **({"prompt_logprobs": prompt} if prompt else {}),
    }


def _prompt_token(scored: TokenLogprob) -> dict[str, Any] | None:
    return None if scored.logprob is None else {"id": scored.id, **token(scored)}


def _head(prefix: str, kind: str, started: Started) -> dict[str, Any]:
    return {"id": f"{prefix}{started.request}", "object": kind, "created": now(), "model": started.model}


def _routing(started: Started) -> dict[str, Any]:
    shown: dict[str, Any] = {"backend": started.backend, "reason": started.reason, "n_ctx": started.n_ctx or None}
    shown |= {"answer_cache": asdict(started.cached)} if started.cached else {}
    shown |= {"auto": picked(started.picked)} if started.picked else {}
    return shown | ({"fallback": started.fallback} if started.fallback else {})


def picked(why: Picked) -> dict[str, Any]:
    """What model `auto` was chosen by; figures to four digits, null where unknown."""
    shown = {name: value for name, value in asdict(why).items() if name not in ("reason", "times")}
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in shown.items()}


def recalled(event: Recalled) -> dict[str, Any]:
    """What the model was shown, as every answer lists it, and what the memory did without."""
    used = [{"id": used.id, "source": used.source, "trust": round(used.trust, 4)} for used in event.memories]
    return {"memories": used} | ({"memory_fallback": event.fallback} if event.fallback else {})


class ChatStream:
    """Translates events to chat.completion.chunk frames: role, deltas, finish reasons, and usage if asked."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._base: dict[str, Any] = {}
        self._started: Started | None = None
        self._opened: set[int] = set()
        self._recalled = Recalled(())

    def __call__(self, event: TurnEvent) -> bytes:
        if isinstance(event, Delta):
            return self._opening(event.index) + self._chunk(event.index, _chat_delta(event), None, event.logprobs)
        if isinstance(event, ChoiceDone):
            reason = _REASONS.get(event.reason, event.reason)
            return self._opening(event.index) + self._chunk(event.index, {}, reason, ())
        if isinstance(event, Started):
            self._started = event
            self._base = _head("chatcmpl-", "chat.completion.chunk", event)
            return b""
        if isinstance(event, Recalled):
            self._recalled = event
            return b""
        if isinstance(event, Waiting):
            return waiting_comment(event)
        if isinstance(event, Summary) and self._include_usage:
            assert self._started is not None
            extra = {"usage": usage(event), "timings": timings(event), **_routing(self._started)}
            extra |= recalled(self._recalled)
            return data({**self._base, "choices": [], **extra})
        return b""

    def _opening(self, index: int) -> bytes:
        if index in self._opened:
            return b""
        self._opened.add(index)
        return self._chunk(index, {"role": "assistant", "content": ""}, None, ())

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None, scored: Sequence[TokenLogprob]) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        if scored:
            choice["logprobs"] = {"content": [token(t) for t in scored]}
        extra: dict[str, Any] = {"usage": None} if self._include_usage else {}
        if reason is not None and (self._recalled.memories or self._recalled.fallback):
            extra |= recalled(self._recalled)
        return data({**self._base, "choices": [choice], **extra})


def _chat_delta(event: Delta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if event.reasoning:
        delta["reasoning_content"] = event.reasoning
    if event.tool_calls:
        delta["tool_calls"] = _calls(event.tool_calls)
    if event.content or not delta:
        delta["content"] = event.content
    return delta


def _completion_logprobs(scored: Sequence[TokenLogprob], at: int) -> dict[str, Any]:
    """The older, column-wise shape; offsets count characters from the start of the text."""
    shown: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in scored:
        text = token.piece.decode("utf-8", "replace")
        shown["tokens"].append(text)
        shown["token_logprobs"].append(token.logprob)
        shown["top_logprobs"].append({a.piece.decode("utf-8", "replace"): a.logprob for a in token.top} or None)
        shown["text_offset"].append(at)
        at += len(text)
    return shown


def completion(answers: Sequence[Sequence[TurnEvent]]) -> dict[str, Any]:
    """A whole text_completion over one or more prompts."""
    started = next(e for e in answers[0] if isinstance(e, Started))
    choices: list[dict[str, Any]] = []
    for events in answers:
        for whole in _gathered(events):
            choices.append(
                {
                    "index": len(choices),
                    "text": "".join(whole.content),
                    "logprobs": _completion_logprobs(whole.logprobs, 0) if whole.logprobs else None,
                    "finish_reason": whole.reason,
                }
            )
    summaries = [e for events in answers for e in events if isinstance(e, Summary)]
    return {
        **_head("cmpl-", "text_completion", started),
        "choices": choices,
        "usage": _summed(summaries),
        "timings": timings(summaries[-1]),
        **_routing(started),
    }


def _summed(summaries: Sequence[Summary]) -> dict[str, Any]:
    shown = [usage(s) for s in summaries]
    known = all(s.counted for s in summaries)
    total: dict[str, Any] = {
        key: sum(u[key] for u in shown) if known else None
        for key in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    cached = sum(s.cached_tokens for s in summaries) if known else None
    spent = energy([summaries])
    total |= {"prompt_tokens_details": {"cached_tokens": cached}, "energy": spent.as_json() if spent else None}
    return total | _guesses(summaries)


class CompletionStream:
    """Translates events to text_completion frames; the prompts of one request come one after the other."""

    def __init__(self, *, include_usage: bool, prompts: int, n: int) -> None:
        self._include_usage = include_usage
        self._left = prompts
        self._n = n
        self._first = 0
        self._base: dict[str, Any] = {}
        self._at: dict[int, int] = {}
        self._summaries: list[Summary] = []

    def __call__(self, event: TurnEvent) -> bytes:
        if isinstance(event, Delta):
            return self._chunk(event.index, event.content, None, event.logprobs)
        if isinstance(event, ChoiceDone):
            return self._chunk(event.index, "", _REASONS.get(event.reason, event.reason), ())
        if isinstance(event, Started):
            self._base = self._base or _head("cmpl-", "text_completion", event)
            return b""
        if isinstance(event, Waiting):
            return waiting_comment(event)
        if isinstance(event, Summary):
            return self._summary(event)
        return b""

    def _summary(self, event: Summary) -> bytes:
        self._summaries.append(event)
        self._first += self._n
        self._left -= 1
        if self._left or not self._include_usage:
            return b""
        extra = {"usage": _summed(self._summaries), "timings": timings(event)}
        return data({**self._base, "choices": [], **extra})

    def _chunk(self, index: int, text: str, reason: str | None, scored: Sequence[TokenLogprob]) -> bytes:
        index += self._first
        at = self._at.get(index, 0)
        self._at[index] = at + len(text)
        shown = _completion_logprobs(scored, at) if scored else None
        choice = {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}
        return data({**self._base, "choices": [choice]})


def shortened(vector: Sequence[float], width: int | None) -> list[float]:
    """The first `width` numbers, scaled to length 1 again."""
    if width is None or width >= len(vector):
        return list(vector)
    cut = vector[:width]
    norm = sum(x * x for x in cut) ** 0.5
    return [x / norm for x in cut] if norm else list(cut)
