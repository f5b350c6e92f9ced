"""Fuzz one target for so many seconds: `python -m tests.fuzz.run TARGET --seconds 600`. Ends at the first fault.

Targets are the dialects' parsers, `gguf` and `template`. Examples come anew each time; a fault is shrunk and printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import bodies, files

Target = tuple[Any, Callable[[Any], object]]


def _dialect(name: str) -> Target:
    return bodies.bodies(name), lambda drawn: bodies.read(name, *drawn)


TARGETS: dict[str, Target] = {
    **{name: _dialect(name) for name in bodies.DIALECTS},
    "gguf": (files.headers(), files.read),
    "template": (files.sources(), files.render),
}


def play(name: str, count: int, number: int) -> tuple[int, int]:
    """Run `count` examples drawn from the seed `number`; how many ran, and how many were sound. Raises the fault."""
    strategy, attempt = TARGETS[name]
    ran = sound = 0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(drawn: Any) -> None:
        nonlocal ran, sound
        ran += 1
        sound += bool(attempt(drawn))

    each()
    return ran, sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--examples", type=int, default=1000, help="of one seed")
    options = parser.parse_args()
    began, ran, sound = time.monotonic(), 0, 0
    while time.monotonic() - began < options.seconds:
        more, good = play(options.target, options.examples, random.SystemRandom().randrange(2**32))
        ran, sound = ran + more, sound + good
    print(f"{options.target}: {ran} examples in {time.monotonic() - began:.0f} s, {sound} sound, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
