"""Turn events to llama-server's answers of /completion and /infill: whole ones and the chunks of a stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.contract import TokenLogprob
from localai.api.openai_out import timings, token
from localai.api.wire import Frames, data
from localai.messages import ChoiceDone, Delta, Started, Summary, TurnEvent

_STOPS = {"length": "limit", "deadline": "limit"}


class CompletionChunks(Frames):
    """Translates events; `fields` are the paths that the client wants of the last chunk, () for all.

    `index` is the place of the prompt among several."""

    end = b""

    def __init__(self, fields: Sequence[str] = (), index: int = 0) -> None:
        self._fields = fields
        self._index = index
        self._started: Started | None = None
        self._done: ChoiceDone | None = None

    def __call__(self, event: TurnEvent) -> bytes:
        if isinstance(event, Delta):
            probs = {"completion_probabilities": [_scored(t) for t in event.logprobs]} if event.logprobs else {}
            return data({"index": 0, "content": event.content, "tokens": [], "stop": False, "id_slot": -1, **probs})
        if isinstance(event, Summary):
            return data(_picked(self._last("", event), self._fields))
        self._note(event)
        return b""

    def whole(self, events: Sequence[TurnEvent]) -> dict[str, Any]:
        """The same as one object."""
        for event in events:
            self._note(event)
        text = "".join(e.content for e in events if isinstance(e, Delta))
        scored = [_scored(t) for e in events if isinstance(e, Delta) for t in e.logprobs]
        shown = self._last(text, next(e for e in events if isinstance(e, Summary)))
        return _picked(shown | ({"completion_probabilities": scored} if scored else {}), self._fields)

    def _note(self, event: TurnEvent) -> None:
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, ChoiceDone):
            self._done = event

    def _last(self, text: str, summary: Summary) -> dict[str, Any]:
        started, done = self._started, self._done
        assert started is not None
        assert done is not None
        return {
            "index": self._index,
            "content": text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": started.model,
            "tokens_predicted": summary.completion_tokens,
            "tokens_evaluated": summary.prompt_tokens,
            "tokens_cached": summary.cached_tokens,
            "generation_settings": {"n_ctx": started.n_ctx},
            "truncated": False,
            "stop_type": "word" if done.stop else _STOPS.get(done.reason, "eos"),
            "stopping_word": done.stop or "",
            "timings": timings(summary),
            "energy": summary.energy.as_json() if summary.energy else None,
        }


def _scored(scored: TokenLogprob) -> dict[str, Any]:
    """As OpenAI shows a token, with ids."""
    shown = token(scored)
    top = [{"id": a.id, **each} for a, each in zip(scored.top, shown["top_logprobs"], strict=True)]
    return {"id": scored.id, **shown, "top_logprobs": top}


def _picked(shown: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The values at `fields`, under their whole paths; a path that leads nowhere is left out."""
    if not fields:
        return shown
    found: dict[str, Any] = {}
    for path in fields:
        value: Any = shown
        for key in path.split("/"):
            value = value.get(key, _NOWHERE) if isinstance(value, dict) else _NOWHERE
        if value is not _NOWHERE:
            found[path] = value
    return found


_NOWHERE = object()
