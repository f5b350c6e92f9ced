"""Which of the engines that can serve a request should, by policy, and the reason in one sentence. Pure.

Options with their measured speeds and a workload enter, a Decision leaves.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from localai.energy.draw import Draw, typical_watts
from localai.energy.figures import Quality
from localai.energy.prediction import query_joules
from localai.errors import BadRequest
from localai.forecast import Speeds, Workload

Policy = Literal["balanced", "fastest", "frugal"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_AMORTISED: dict[Policy, float] = {"fastest": 0.1, "balanced": 1.0, "frugal": 1.0}
"""Share of a load's time that one request is charged: `fastest` trusts that about ten will follow."""
_NEAR = 1.15
"""`balanced` calls everything fast that takes at most this many times the least."""
_WORTH = 1.03
"""A gain smaller than this is within the noise of measurements, and moves nothing to another engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One engine for the request's model. `problem` says why it must not be used, '' where it may; `late` that it is
    only slow, so that it is still better than none.

    `speeds` are None until it was measured. `held` tokens of the prompt lie in its cache, `users` requests run on it,
    `last_used` is monotonic seconds, 0 for never; `memory` bytes that it takes. `draw` are
    its watts, None where no answer has told.
    """

    backend: str
    mode: str = ""
    problem: str = ""
    late: bool = False
    speeds: Speeds | None = None
    loaded: bool = False
    held: int = 0
    users: int = 0
    last_used: float = 0.0
    memory: int = 0
    draw: Draw | None = None

    def __str__(self) -> str:
        return f"{self.backend} ({self.mode})" if self.mode else self.backend


@dataclass(frozen=True, slots=True)
class Decision:
    """The option to take and why."""

    option: Option
    reason: str


@dataclass(frozen=True, slots=True)
class _Bid:
    option: Option
    seconds: float
    cost: float
    joules: float
    quality: Quality


def check_policy(name: str) -> Policy:
    """Raises BadRequest for a policy that does not exist."""
    for known in POLICIES:
        if name == known:
            return known
    hint = f"choose one of: {', '.join(POLICIES)}; or a backend (-B)"
    raise BadRequest(f"no policy named {name!r}", hint, param="policy")


def decide(policy: Policy, options: Sequence[Option], work: Workload) -> Decision:
    """Choose among `options`, which come in the order of preference while nothing is measured, at least one sound."""
    sound = [option for option in options if not option.problem]
    left_out = "".join(f"; {option} is not used: {option.problem}" for option in options if option.problem)
    first = sound[0]
    if len(sound) == 1:
        return Decision(first, f"{first} is the only engine for it here{left_out}")
    if first.speeds is None:
        return Decision(first, f"{first} until the engines are measured with it on this device{left_out}")
    bids = _bids(policy, sound, work)
    if not bids:
        return Decision(first, f"{first}, because no engine was measured for this kind of request{left_out}")
    chosen = _chosen(policy, bids)
    return Decision(chosen.option, _words(policy, chosen, bids, work) + left_out)


def phases(options: Sequence[Option]) -> dict[str, tuple[str, float]]:
    """The best engine of each phase with its token/s; {} where nothing is measured."""
    rates = [(str(option), *option.speeds.rates()) for option in options if option.speeds and not option.problem]
    if not rates:
        return {}
    prefill, decode = max(rates, key=lambda r: r[1]), max(rates, key=lambda r: r[2])
    return {"prefill": (prefill[0], prefill[1]), "decode": (decode[0], decode[2])}


def _bids(policy: Policy, options: Sequence[Option], work: Workload) -> list[_Bid]:
    """What each measured option would take; engines that run at the same time share the cores."""
    found = []
    least = min((option.memory for option in options if option.memory), default=1)
    # What is modelled is never ranked against what is measured: one kind of figure for all of them.
    known = {option.draw.quality if option.draw else "none" for option in options if option.speeds}
    same = len(known) == 1 and "none" not in known
    for option in options:
        held, users = min(option.held, work.prompt), option.users if work.prompts == 1 else 0
        seconds = option.speeds.seconds(replace(work, cached=held, others=users)) if option.speeds else None
        if option.speeds is None or seconds is None:
            continue
        rivals = sum(1 for other in options if other is not option and other.users)
        load = 0.0 if option.loaded else _AMORTISED[policy] * option.speeds.load_s
        cost = option.speeds.busy * seconds * (option.memory / least if option.memory else 1.0)
        joules, quality = _joules(option, option.speeds, replace(work, cached=held), seconds, same=same)
        joules *= 1 + load / seconds if seconds else 1.0
        found.append(_Bid(option, seconds * (1 + rivals) + load, cost, joules, quality))
    return found


def _joules(option: Option, speeds: Speeds, work: Workload, seconds: float, *, same: bool) -> tuple[float, Quality]:
    """Of the request alone on the loaded engine; by CPU time and typical watts where draws cannot be compared."""
    found = query_joules(speeds, option.draw, work) if same and option.draw else None
    if found is None or option.draw is None:
        return typical_watts(platform.machine()) * speeds.busy * seconds, "modelled"
    return found, option.draw.quality


def _chosen(policy: Policy, bids: Sequence[_Bid]) -> _Bid:
    best = min(bids, key=lambda bid: bid.seconds)
    if policy == "frugal":
        qualities = {bid.quality for bid in bids}
        if len(qualities) == 1:
            thrifty = min(bids, key=lambda bid: bid.joules)
            near = [bid for bid in bids if bid.joules <= _WORTH * thrifty.joules]
            return min(near, key=lambda bid: (not bid.option.loaded, bid.joules))
        return best
    if policy == "balanced":
        near = [bid for bid in bids if bid.seconds <= _NEAR * best.seconds]
        return min(near, key=lambda bid: (not bid.option.loaded, bid.cost))
    # Whoever holds the conversation or served last keeps it, unless the other gains more than noise.
    incumbent = max(bids, key=lambda bid: (bid.option.loaded, bid.option.held, bid.option.last_used))
    stays = incumbent.option.loaded and incumbent.seconds <= _WORTH * best.seconds
    return incumbent if stays else best


def _words(policy: Policy, chosen: _Bid, bids: Sequence[_Bid], work: Workload) -> str:
    amount = _energy if policy == "frugal" else _seconds
    others = ", ".join(f"{bid.option} {amount(bid)}" for bid in bids if bid is not chosen)
    new = max(0, work.prompt - min(chosen.option.held, work.prompt)) * work.prompts
    size = f"about {new} new prompt tokens"
    if not work.embeds:
        each = work.prompts * work.choices
        size += f" and {work.answer} answer tokens" + (f" in each of {each} sequences" if each > 1 else "")
    fastest = chosen.seconds <= min(bid.seconds for bid in bids)
    why = (
        ""
        if fastest or policy == "frugal"
        else (" (close to the fastest, " + ("loaded" if chosen.option.loaded else "for less") + ")")
    )
    best = phases([bid.option for bid in bids])
    by_phase = ", ".join(f"{phase} {name} {rate:.0f}" for phase, (name, rate) in best.items())
    compared = f", {others}" if others else ""
    return (
        f"{policy}: {chosen.option} should take {amount(chosen)}{compared} for {size}{why}; "
        f"measured here, best token/s: {by_phase}"
    )


def _seconds(bid: _Bid) -> str:
    return _time(bid.seconds)


def _energy(bid: _Bid) -> str:
    return f"{bid.joules:.3g} J ({bid.quality})"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
