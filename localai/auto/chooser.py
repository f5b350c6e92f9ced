"""What a request to model `auto` is to be asked of: the request in, an Order out. Reads runs, library and market."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from localai.auto.checking import SHORT, comparable
from localai.calibration_store import identity
from localai.config import Config
from localai.errors import LocalaiError
from localai.forecast import Workload
from localai.library import Library
from localai.market import Market
from localai.messages import Picked, TurnRequest
from localai.router import default_model
from localai.workload import text_of, workload

if TYPE_CHECKING:
    from localai.auto.abilities import Ability
    from localai.auto.boards import Board, Runs
    from localai.auto.classifier import Guess
    from localai.auto.picking import Plan

_BYTES_PER_TOKEN = 2.5
"""Fewer than most text has: who has hardly room for a prompt is not asked."""
_HINT = "`localai bench -m MODEL -m OTHER` measures them"


@dataclass(frozen=True, slots=True)
class Order:
    """`request` names a model now, and says why. `plan` is None where nothing was there to choose from."""

    request: TurnRequest
    plan: Plan | None = None
    category: str = ""


class Auto:
    """Safe to use from several threads. Methods block: they read files, and the first one trains the classifier."""

    def __init__(self, home: Path, library: Library, market: Market) -> None:
        self._home = home
        self._library = library
        self._market = market
        self._lock = Lock()
        self._runs: Runs | None = None

    def board(self) -> Board:
        """What may be chosen from. Raises OSError where a run cannot be read."""
        # They bring numpy, which a daemon that is never asked for `auto` does without.
        from localai.auto.boards import Runs, board

        with self._lock:
            self._runs = self._runs or Runs(self._home)
            return board(self._runs.all(), self._digest)

    def order(self, request: TurnRequest, config: Config) -> Order:
        """Choose for `request`. Raises OutOfResources where what was measured cannot be read."""
        usual = default_model(config)
        if request.kind == "embedding":
            return _usual(request, usual, "it makes no embeddings")
        board = self.board()
        if len(board.models) < 2:
            many = "one model was" if board.models else "no models were"
            return _usual(request, usual, f"{many} measured to choose from ({_HINT})")
        asked = request.backend or (config.backend if config.backend != "auto" else "")
        able, held = self._able([a for a in board.abilities if asked in ("", a.backend)], text_of(request))
        if not able:
            what = f"was measured on {asked}" if asked else "that was measured may run now, or holds so long a prompt"
            return _usual(request, usual, f"no model {what} ({_HINT})")
        return _chosen(request, config, able, held)

    def _able(self, abilities: Sequence[Ability], text: str) -> tuple[list[Ability], dict[str, int]]:
        """Those that hold `text` and may run now, and the tokens of it in their caches, by ability as text."""
        held: dict[str, int] = {}
        barred: set[str] = set()
        size = len(text.encode("utf-8", "replace"))
        for name in {each.model for each in abilities}:
            model = self._library.resolve(name)
            trained = model.header.n_ctx_train if model.header else None
            if trained is not None and size / _BYTES_PER_TOKEN > trained:
                barred |= {str(each) for each in abilities if each.model == name}
                continue
            for option in self._market.options(model, text):
                backend = f"{option.backend}:{option.mode}" if option.mode else option.backend
                held[f"{name} on {backend}"] = option.held
                barred |= {f"{name} on {backend}"} if option.problem else set()
        return [each for each in abilities if str(each) not in barred], held

    def _digest(self, name: str) -> str | None:
        try:
            model = self._library.resolve(name, files=False)
            return model.digest or identity(model)
        except (LocalaiError, OSError):
            # What is gone or broken cannot be chosen; who asks for it by name is told why.
            return None


def _usual(request: TurnRequest, model: str, why: str) -> Order:
    reason = f"auto: {model} is the default model, and {why}"
    return Order(replace(request, model=model, picked=Picked(reason=reason)))


def _chosen(request: TurnRequest, config: Config, able: Sequence[Ability], held: dict[str, int]) -> Order:
    from localai.auto.picking import bids, plan

    guess = _guess(request)
    work = workload(request, text_of(request))
    samples = bool(config.auto_samples) and _checkable(request) and comparable(guess.category, request.max_tokens)
    sample = Workload(prompt=1, answer=min(work.answer, SHORT)) if samples else None
    form = bool(config.auto_samples) and _checkable(request) and guess.category == "code"
    found = bids(able, guess.mix, work, held)
    made = plan(found, config.auto_least, request.max_joules, sample, samples=config.auto_samples, form=form)
    picked = _picked(made, guess, request.max_joules)
    first = made.first.ability
    return Order(replace(request, model=first.model, backend=first.backend, picked=picked), made, guess.category)


def _guess(request: TurnRequest) -> Guess:
    from localai.auto.classifier import Guess, trained

    if request.suffix is not None:
        return Guess("code", 1.0, {"code": 1.0})
    if request.kind == "chat":
        said = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
    else:
        said = request.prompt or ""
    return trained().guess(said)


def _checkable(request: TurnRequest) -> bool:
    """Whether it is one plain answer, of a request that is no part of another."""
    plain = not (request.tools or request.grammar or request.echo or request.ignore_eos or request.parent)
    silent = request.logprobs is None and request.prompt_logprobs is None
    return plain and silent and request.n == 1 and request.together == 1 and request.max_tokens != 0


def _picked(made: Plan, guess: Guess, limit: float | None) -> Picked:
    first, best = made.first, made.best
    reason = (
        f"auto: {guess.category} ({guess.probability:.0%}): {first.ability} should be right in {first.accuracy:.0%}"
    )
    reason += f" for {first.joules:.2g} J"
    if first is not best:
        reason += f", {best.ability}, the most accurate, in {best.accuracy:.0%} for {best.joules:.2g} J"
    reason += f" ({first.ability.quality})"
    if made.then is not None:
        how = "further samples" if made.samples else "its form"
        reason += f"; it is checked by {how}, and {made.then.ability} answers where that fails"
    if made.tight:
        reason += f"; max_joules {limit:g} leaves no better choice"
    return Picked(
        reason=reason,
        category=guess.category,
        probability=guess.probability,
        accuracy=made.accuracy,
        accuracy_lost=made.lost,
        joules=made.joules,
        largest=made.largest.ability.model,
        largest_joules=made.largest.joules,
        quality=first.ability.quality,
        times=made.times,
    )
