"""One question to the daemon and the row it leaves: ordinary requests over the socket, as any client sends them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localai.bench.configurations import Configuration
from localai.bench.rows import Row
from localai.bench.scoring import likeliest, right
from localai.bench.tasks import Item
from localai.client import Client
from localai.errors import ContextExceeded, DeadlinePassed, EngineFailed, LocalaiError, TooBusy

APP = "bench"
DEADLINE = 180.0
"""Seconds after which a question counts as not answered."""
WARMUP = "Once upon a time, in a small village by the sea, there lived an old man who"

_OF_THE_ITEM = (ContextExceeded, DeadlinePassed, EngineFailed, TooBusy)
"""What costs the question, and not the run."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks on behalf of one run; `salt` keeps answers of earlier runs out of the KV cache, `names` as in `Chosen`."""

    client: Client
    salt: str
    names: Mapping[str, str]

    def ask(self, item: Item, config: Configuration, number: int) -> Row:
        """Answer and score `item`. Raises LocalaiError for what no other question would survive either."""
        started = time.monotonic()
        given: dict[str, Any] = {"config": config.key, "item": item.id, "category": item.category, "round": number}
        try:
            answer = self._send(item, config, number)
        except _OF_THE_ITEM as error:
            spent = round(time.monotonic() - started, 3)
            return Row(**given, correct=False, seconds=spent, error=error.code, reason=error.message)
        seconds = round(time.monotonic() - started, 4)
        correct, by_length = _verdict(item, answer)
        cut = item.kind != "choice" and answer["choices"][0]["finish_reason"] == "length"
        return Row(
            **given, correct=correct, likelihood_by_length=by_length, seconds=seconds, cut=cut, **figures(answer)
        )

    def warm_up(self, config: Configuration, tokens: int) -> tuple[float | None, float]:
        """Decode rate of a short answer in token/s, None where the engine told none, and the seconds it took."""
        started = time.monotonic()
        body = {**self._common(config, -1), "prompt": WARMUP, "max_tokens": tokens, "ignore_eos": True}
        answer = self.client.post("/v1/completions", body, timeout=None)
        return answer["timings"]["decode_tps"], time.monotonic() - started

    def _send(self, item: Item, config: Configuration, number: int) -> dict[str, Any]:
        body = {**self._common(config, number), "deadline": DEADLINE}
        if item.kind == "choice":
            prompts = [item.prompt + ending for ending in item.choices]
            body |= {"prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 0}
            return self.client.post("/v1/completions", body, timeout=None)
        body |= {"max_tokens": item.max_tokens, "stop": list(item.stop)}
        if item.kind == "chat":
            body["messages"] = [{"role": "user", "content": item.prompt}]
            return self.client.post("/v1/chat/completions", body, timeout=None)
        return self.client.post("/v1/completions", {**body, "prompt": item.prompt}, timeout=None)

    def _common(self, config: Configuration, number: int) -> dict[str, Any]:
        return {
            "model": self.names[config.key],
            "backend": config.backend,
            "temperature": 0,
            "seed": 0,
            "repetition_stop": False,
            "cache_salt": f"{self.salt} {number}",
        }


def _verdict(item: Item, answer: dict[str, Any]) -> tuple[bool, bool | None]:
    if item.kind == "choice":
        by_sum, by_length = likeliest(choice_scores(item, answer))
        return by_sum == item.gold, by_length == item.gold
    first = answer["choices"][0]
    text = first["message"]["content"] or "" if item.kind == "chat" else first["text"]
    return right(item, text), None


def choice_scores(item: Item, answer: dict[str, Any]) -> list[tuple[float, int]]:
    """Of each ending: the sum of its tokens' log-probabilities (natural), and its length in characters."""
    scores = []
    for ending, scored in zip(item.choices, answer["choices"], strict=True):
        given = scored["logprobs"]
        pairs = zip(given["token_logprobs"], given["text_offset"], strict=True)
        own = [value for value, offset in pairs if offset >= len(item.prompt) and value is not None]
        if not own:
            raise LocalaiError(f"{item.id}: an ending has no token of its own", "mend the task file")
        scores.append((sum(own), len(ending)))
    return scores


def figures(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer of the daemon says it took, by the names of a Row."""
    usage, timings = answer["usage"], answer["timings"]
    energy = usage.get("energy") or {}
    known = ("joules", "prefill_joules", "decode_joules", "idle_joules", "predicted_joules", "cpu_seconds")
    return {
        **{name: energy.get(name) for name in (*known, "method", "uncertainty")},
        "quality": energy.get("quality", "none"),
        "scope": tuple(energy.get("scope") or ()),
        "reason": energy.get("reason", "") if energy.get("joules") is None else "",
        "ttft_ms": timings["ttft_ms"],
        "decode_tps": timings["decode_tps"],
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "completion_tokens": usage["completion_tokens"],
    }
