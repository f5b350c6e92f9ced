"""How full the context is that a conversation goes on in: its messages and what is served enter, tokens leave. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from localai.conversations import StoredMessage

_LETTERS = 4
"""Characters that are taken for a token where nothing was counted."""


class Room(TypedDict):
    """Tokens. `used` is `exact` where the engine counted all of it; `n_ctx` is None where it is not known."""

    used: int
    exact: bool
    n_ctx: int | None


def room(path: Sequence[StoredMessage], system: str, model: str | None, served: Mapping[str, int]) -> Room:
    """After the messages of `path`, with `model` (None: that of the last answer); `served` is what loaded models serve.

    The newest answer with counts tells what was used up to it, the letters after it the rest. What a model served when
    it answered last stands for one that is not loaded.
    """
    used, exact, after = 0, True, len(path)
    for message in reversed(path):
        counts = message.usage or {}
        asked, answered = counts.get("prompt_tokens"), counts.get("completion_tokens")
        if asked is not None and answered is not None:
            used += asked + answered
            break
        after -= 1
    else:
        used, exact = len(system) // _LETTERS, not system
    for message in path[after:]:
        used, exact = used + 1 + len(message.content) // _LETTERS, False
    answers = [message for message in reversed(path) if message.role == "assistant"]
    name = model or next((message.model for message in answers if message.model), None)
    known = [(m.figures or {}).get("n_ctx") for m in answers if m.model == name]
    n_ctx = served.get(name or "") or next((number for number in known if number), None)
    return Room(used=used, exact=exact, n_ctx=n_ctx)
