"""Numbers of the command line: text enters, a finite number leaves, or what is wrong with it in words."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A number in a range, which no infinity and nothing that is no number is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            kind = "positive finite number" if self.min == 0 and self.min_open else "finite number"
            self.fail(f"{value} is no {kind}", param, ctx)
        return number
