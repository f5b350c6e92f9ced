"""Turn events to Ollama's answers: whole ones and lines of NDJSON. Pure, but for the clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from backends.contract import TokenLogprob
from localai.api.ollama_context import pack
from localai.api.openai_out import energy, shortened, token
from localai.api.wire import line
from localai.messages import ChoiceDone, Delta, Embedded, Message, Started, Summary, TurnEvent

Kind = Literal["chat", "generate"]


def stamp(seconds: float | None = None) -> str:
    """RFC 3339, as Go's JSON has it; None is now."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class _Said:
    """One answer, as far as it has come."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: dict[int, tuple[str, list[str]]] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str = "stop"

    def take(self, event: TurnEvent) -> None:
        if isinstance(event, Delta):
            self.content.append(event.content)
            self.thinking.append(event.reasoning)
            self.logprobs.extend(event.logprobs)
            for call in event.tool_calls:
                self.calls.setdefault(call.index, (call.name or "", []))[1].append(call.arguments)
        elif isinstance(event, ChoiceDone):
            self.reason = "length" if event.reason in ("length", "deadline") else "stop"
            for broken in event.broken:
                self.calls.pop(broken, None)

    def tool_calls(self) -> list[dict[str, Any]]:
        return [
            {"function": {"name": name, "arguments": _arguments("".join(parts))}} for name, parts in self.calls.values()
        ]


class Lines:
    """Translates events to the lines of a stream; calls come whole, because their arguments are objects.

    `model` is the name that was asked for. `said` is what the packed conversation of /api/generate begins with.
    """

    def __init__(self, kind: Kind, model: str, said: Sequence[Message] = ()) -> None:
        self._kind = kind
        self._model = model
        self._messages = said
        self._said = _Said()

    def __call__(self, event: TurnEvent) -> bytes:
        self._said.take(event)
        if isinstance(event, Started):
            self._model = self._model or event.model
        elif isinstance(event, Delta) and (event.content or event.reasoning or event.logprobs):
            return line(self._part(event.content, event.reasoning, event.logprobs))
        elif isinstance(event, ChoiceDone) and self._said.calls:
            return line(self._part("", "", (), self._said.tool_calls()))
        elif isinstance(event, Summary):
            return line(self._part("", "", ()) | self._end(event))
        return b""

    def whole(self, events: Sequence[TurnEvent]) -> dict[str, Any]:
        """The same as one object."""
        for event in events:
            self(event)
        said = self._said
        summary = next(e for e in events if isinstance(e, Summary))
        shown = self._part("".join(said.content), "".join(said.thinking), said.logprobs, said.tool_calls())
        return shown | self._end(summary)

    def loaded(self, events: Sequence[TurnEvent], *, unloaded: bool) -> dict[str, Any]:
        """The answer to a request that only wanted the model loaded, or unloaded."""
        for event in events:
            self(event)
        return self._part("", "", ()) | {"done": True, "done_reason": "unload" if unloaded else "load"}

    def _part(
        self,
        content: str,
        thinking: str,
        scored: Sequence[TokenLogprob],
        calls: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"model": self._model, "created_at": stamp()}
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = list(calls)
        if self._kind == "chat":
            shown["message"] = {"role": "assistant", "content": content, **more}
        else:
            shown |= {"response": content, **more}
        if scored:
            shown["logprobs"] = [token(t) for t in scored]
        return shown | {"done": False}

    def _end(self, summary: Summary) -> dict[str, Any]:
        end: dict[str, Any] = {"done": True, "done_reason": self._said.reason}
        if self._kind == "generate" and self._messages:
            end["context"] = pack([*self._messages, Message("assistant", "".join(self._said.content))])
        took = summary.timings
        # Only where there is something to say: Ollama's own clients know no such field.
        end |= {"stopped": took.stopped} if took.stopped else {}
        return end | {
            "total_duration": _ns(took.total_ms),
            "load_duration": _ns(took.load_ms),
            "prompt_eval_count": summary.prompt_tokens,
            "prompt_eval_cached": summary.cached_tokens,
            "prompt_eval_duration": _ns(took.prefill_ms),
            "eval_count": summary.completion_tokens,
            "eval_duration": _ns(took.decode_ms),
            "energy": summary.energy.as_json() if summary.energy else None,
        }


def embeddings(answers: Sequence[Sequence[TurnEvent]], model: str, width: int | None) -> dict[str, Any]:
    """The answer of /api/embed."""
    summaries = [e for events in answers for e in events if isinstance(e, Summary)]
    spent = energy(answers)
    return {
        "model": model,
        "embeddings": [shortened(e.vector, width) for events in answers for e in events if isinstance(e, Embedded)],
        "total_duration": _ns(max((s.timings.total_ms for s in summaries), default=0.0)),
        "load_duration": _ns(max((s.timings.load_ms for s in summaries), default=0.0)),
        "prompt_eval_count": sum(s.prompt_tokens for s in summaries),
        "energy": spent.as_json() if spent else None,
    }


def _ns(milliseconds: float) -> int:
    return round(milliseconds * 1e6)


def _arguments(text: str) -> dict[str, Any]:
    """The object that the model wrote; a limit may have cut it short, and then nothing of it counts."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
