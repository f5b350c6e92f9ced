"""Who may guess tokens ahead, and what came of it: parts of the frames in `contract`."""

from __future__ import annotations

from typing import Literal

import msgspec

Speculation = Literal["auto", "off", "lookup", "draft"]
Guesser = Literal["lookup", "draft"]


class Guesses(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that were guessed and verified, how many of them were right, and who guessed.

    Where nobody has, `unguessed` says why in words; '' where nothing is to be said.
    """

    drafted: int = 0
    accepted: int = 0
    by: tuple[Guesser, ...] = ()
    unguessed: str = ""

    @property
    def said(self) -> str:
        """Who guessed, or why nobody did; '' where nothing was generated."""
        return "+".join(self.by) or (f"off: {self.unguessed}" if self.unguessed else "")

    def after(self, before: Guesses) -> Guesses:
        """The counts of both together; who guessed, or why nobody did, as of the later ones, these."""
        counts = before.drafted + self.drafted, before.accepted + self.accepted
        return Guesses(drafted=counts[0], accepted=counts[1], by=self.by, unguessed=self.unguessed)

    def and_then(self, drafted: int, accepted: int, by: Guesser) -> Guesses:
        """With those of one more step."""
        every: tuple[Guesser, ...] = tuple(sorted({*self.by, by}, reverse=True))
        return Guesses(drafted=self.drafted + drafted, accepted=self.accepted + accepted, by=every)
