"""What a model under a name of its own begins with. Plain values; the store keeps them, the turn applies them."""

from __future__ import annotations

import msgspec


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A system prompt and settings over another model; a request's own fields go before them. Counts are tokens."""

    system: str | None = None
    sampling: dict[str, float | int] = {}
    stop: tuple[str, ...] = ()
    n_ctx: int | None = None
    max_tokens: int | None = None

    def over(self, older: Preset) -> Preset:
        """This one, and what it leaves open taken from `older`."""
        return Preset(
            system=self.system if self.system is not None else older.system,
            sampling={**older.sampling, **self.sampling},
            stop=self.stop or older.stop,
            n_ctx=self.n_ctx or older.n_ctx,
            max_tokens=self.max_tokens or older.max_tokens,
        )
