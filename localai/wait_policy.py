"""How an engine's threads wait for each other between parts of a step: spin for long, spin briefly, or sleep.

OpenMP reads it from the environment when the process starts, so it is measured by starting the engine with each, once
per device and library version. What is known lives in `tested`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

from localai.tested import Key, TestedSettings


@dataclass(frozen=True, slots=True)
class WaitPolicy:
    """A name, and the environment variables that ask for it."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)


_ALL = (
    WaitPolicy("spin"),
    WaitPolicy("spin briefly", {"GOMP_SPINCOUNT": "20000"}),
    WaitPolicy("sleep", {"OMP_WAIT_POLICY": "PASSIVE"}),
)
# Elsewhere the engine is built with threads of its own, which read none of these variables.
POLICIES = _ALL if sys.platform == "linux" else _ALL[:1]


def policy_key(key: Key, policy: WaitPolicy) -> Key:
    """Where the rates under `policy` are kept: they are the device's and library's, not the model's."""
    return replace(key, model=f"wait policy: {policy.name}")


def best_policy(tested: TestedSettings, key: Key) -> WaitPolicy | None:
    """The policy that decoded fastest on this device; None where not all of them have been measured."""
    rates = {policy.name: tested.threads(policy_key(key, policy)) for policy in POLICIES}
    if not all(rates.values()):
        return None
    return max(POLICIES, key=lambda policy: max(rates[policy.name].values()))
