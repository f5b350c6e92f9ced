"""Responses that a later request may continue: the newest ones, in memory, within a bound. Gone with the daemon."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localai.errors import NotFound
from localai.messages import Message

MOST = 512
MOST_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A response as it was given, and all messages up to it, its own answer last; without instructions."""

    response: dict[str, Any]
    messages: tuple[Message, ...]

    @property
    def characters(self) -> int:
        return sum(
            len(m.content) + len(m.reasoning) + sum(len(c.arguments) for c in m.tool_calls) for m in self.messages
        )


class KeptResponses:
    """Belongs to one event loop. The oldest responses go first."""

    def __init__(self, most: int = MOST, characters: int = MOST_CHARACTERS) -> None:
        self._most, self._characters = most, characters
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._total = 0

    def add(self, response: dict[str, Any], messages: Sequence[Message]) -> None:
        """Keep `response`; its size counts every message again, so the bound holds however long a chat grows."""
        kept = Kept(response, tuple(messages))
        self._kept[response["id"]] = kept
        self._total += kept.characters
        while len(self._kept) > self._most or self._total > self._characters:
            self._total -= self._kept.popitem(last=False)[1].characters

    def get(self, name: str) -> Kept:
        """Raises NotFound for one that was never kept, or not any more."""
        if name not in self._kept:
            raise NotFound(
                f"there is no response {name[:64]!r} here",
                f"send the whole input; the last {self._most} responses are kept until the daemon stops",
                param="previous_response_id",
            )
        return self._kept[name]

    def drop(self, name: str) -> None:
        """Raises NotFound as `get`."""
        self._total -= self.get(name).characters
        del self._kept[name]
