"""What the router chose for a request: the model, the engine and how it computes, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.contract import Adapter
from localai.energy.taps import Rates
from localai.local_model import LocalModel
from localai.presets import Preset


@dataclass(frozen=True, slots=True)
class Choice:
    """What will serve. `n_ctx` 0 means as much as is sensible here; `reason` is one sentence for people.

    `mode` is how the backend computes, by its own name for it; '' is its most faithful one. `model` is what is loaded;
    `rates` are the joules that its tokens should take, as far as was measured before it has answered;
    `adapters` are applied to it for this request alone, and make it `sibling`, as a `preset` does.
    """

    model: LocalModel
    backend: str
    n_ctx: int
    reason: str
    mode: str = ""
    adapters: tuple[Adapter, ...] = ()
    sibling: str = ""
    rates: Rates | None = None
    preset: Preset = Preset()

    @property
    def id(self) -> str:
        """The name that the answer carries: the sibling's, or the model's own."""
        return self.sibling or self.model.id

    @property
    def key(self) -> tuple[str, str, str]:
        """What an engine is loaded for: file, backend, mode."""
        return str(self.model.path), self.backend, self.mode

    @property
    def sampling(self) -> dict[str, Any]:
        """What the preset says, then what the catalogue recommends for this model; {} where both are silent."""
        recommended = self.model.spec.sampling if self.model.spec else {}
        return {**{str(k): v for k, v in recommended.items()}, **self.preset.sampling}

    @property
    def system(self) -> str | None:
        """The preset's system prompt, or the catalogue's; None leaves it to the model's template."""
        if self.preset.system is not None:
            return self.preset.system
        return self.model.spec.system if self.model.spec else None
