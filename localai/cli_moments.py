"""Moments as people write and read them: what an option says becomes Unix seconds, and Unix seconds become a date."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta

import click

_AGO = re.compile(r"(\d{1,5})\s*(m|h|d|w|minutes?|hours?|days?|weeks?)(\s+ago)?", re.IGNORECASE)
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_MISTAKEN = "give a date such as 2026-01-31 or 2026-01-31T18:00, today, yesterday, 7d (days ago), or Unix seconds"


def moment(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Unix seconds. What names no time zone is local; a year or a day alone begins at midnight."""
    if value is None:
        return None
    try:
        found = _moment(value.strip())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(_MISTAKEN, param=parameter) from error
    if not math.isfinite(found):
        raise click.BadParameter(_MISTAKEN, param=parameter)
    return found


def _moment(text: str) -> float:
    now = datetime.now()
    if text.casefold() == "now":
        return now.timestamp()
    if text.casefold() in ("today", "yesterday"):
        day = date.today() - timedelta(days=text.casefold() == "yesterday")
        return datetime.combine(day, time()).timestamp()
    if (ago := _AGO.fullmatch(text)) is not None:
        return now.timestamp() - int(ago[1]) * _UNITS[ago[2][0].lower()]
    # A year and a day without dashes are numbers, too, and never meant as seconds.
    if re.fullmatch(r"\d{4}(-\d{2})?", text):
        return datetime.fromisoformat(f"{text}-01" if "-" in text else f"{text}-01-01").timestamp()
    if re.fullmatch(r"\d{8}", text):
        return datetime.fromisoformat(text).timestamp()
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()


def shown_moment(seconds: float) -> str:
    """Local, with the zone's distance; the number itself where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
