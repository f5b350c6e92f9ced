"""Who may guess tokens ahead, and what came of it: parts of the frames in `contract`."""

from __future__ import annotations

from typing import Literal

import msgspec

Speculation = Literal["auto", "off", "lookup", "draft"]
Guesser = Literal["lookup", "draft"]


class Guesses(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that were guessed and verified, how many of them were right, and who guessed.

    Where nobody has, `unguessed` says why in words; '' where nothing is to be said. Steps with guesses made `made`
    tokens in the time in which `price` steps of one token would have run, by what steps were measured to cost.
    """

    drafted: int = 0
    accepted: int = 0
    by: tuple[Guesser, ...] = ()
    unguessed: str = ""
    made: int = 0
    price: float = 0.0

    @property
    def gain(self) -> float | None:
        """How many times the tokens per second steps with guesses gave; None where there were none."""
        return self.made / self.price if self.price else None

    @property
    def said(self) -> str:
        """Who guessed, or why nobody did; '' where nothing was generated."""
        return "+".join(self.by) or (f"off: {self.unguessed}" if self.unguessed else "")

    def after(self, before: Guesses) -> Guesses:
        """The counts of both together; who guessed, or why nobody did, as of the later ones, these."""
        return Guesses(
            drafted=before.drafted + self.drafted,
            accepted=before.accepted + self.accepted,
            by=self.by,
            unguessed=self.unguessed,
            made=before.made + self.made,
            price=before.price + self.price,
        )

    def and_then(self, drafted: int, accepted: int, by: Guesser, price: float) -> Guesses:
        """With those of one more step, which took as long as `price` steps of one token."""
        step = Guesses(drafted=drafted, accepted=accepted, made=1 + accepted, price=price)
        return msgspec.structs.replace(step.after(self), by=tuple(sorted({*self.by, by}, reverse=True)))
