"""What the user said about each tool, kept in `consent.json`; and the questions that wait for an answer.

A tool's name and the digest of its description enter, `ask`, `always` or `never` leaves. A tool that describes itself
anew is asked about again: what was allowed was another one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

from localai.errors import NotFound
from localai.state_file import StateFile
from localai.tools.spec import Consent

Decision = Literal["once", "always", "no", "never"]
"""An answer to one question: for this call, or for all calls of that tool from now on."""

ANSWER_S = 300.0
"""Seconds that a question waits for its answer; after that the call is refused."""


class _Said(msgspec.Struct, frozen=True):
    consent: Consent
    digest: str


class _Kept(msgspec.Struct, frozen=True):
    tools: dict[str, _Said] = {}
    format: int = 1


class Consents:
    """The file of one home, and what is being asked right now. Belongs to one asyncio loop."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "consent.json", _Kept, "every tool is asked about again")
        self._open: dict[str, tuple[str, asyncio.Future[Decision]]] = {}

    def of(self, tool: str, digest: str, usual: Consent) -> Consent:
        """What holds for `tool`; `usual` where nothing was said."""
        said = self._file.read().tools.get(tool)
        if said is None:
            return usual
        return "ask" if said.consent == "always" and said.digest != digest else said.consent

    def say(self, tool: str, digest: str, consent: Consent) -> None:
        """Keep what the user said. Raises OutOfResources."""
        self._file.change(lambda kept: _Kept({**kept.tools, tool: _Said(consent, digest)}))

    async def ask(self, call: str, tool: str) -> Decision:
        """Wait for the answer about one call; `no` where none comes."""
        question: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._open[call] = (tool, question)
        try:
            return await asyncio.wait_for(question, ANSWER_S)
        except TimeoutError:
            return "no"
        finally:
            del self._open[call]

    def answer(self, call: str, decision: Decision) -> str:
        """The name of the tool that `call` is of. Raises NotFound where nobody waits for this answer."""
        tool, question = self._open.get(call, ("", None))
        if question is None or question.done():
            raise NotFound(f"no call {call!r} waits for an answer", "it was answered, or the chat was closed")
        question.set_result(decision)
        return tool
