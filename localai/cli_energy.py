"""`localai energy`: what answers took, by day, model, app or conversation. Needs no daemon."""

from __future__ import annotations

import time
from typing import Any, cast
from urllib.parse import urlencode

import click

from localai.cli import show
from localai.config import Config, load
from localai.energy.report import BY, By, table, whole
from localai.errors import DaemonUnreachable
from localai.lifecycle import client

_DAY = 86_400.0


@click.command()
@click.option("--by", type=click.Choice(BY), default="day", help="What to sum by.")
@click.option("--days", type=click.IntRange(1, 3660), default=30, help="How many days to look back.")
@click.option("--json", "as_json", is_flag=True)
def energy(by: str, days: int, as_json: bool) -> None:
    """Show the joules of past answers, with cost and CO2 where `tariff` and `carbon` are configured."""
    show(_report(load(), cast(By, by), days), as_json, table)


def _report(config: Config, by: By, days: int) -> dict[str, Any]:
    """The daemon's, else the ledger's own; prices are those that hold where this is typed, else the daemon's."""
    from localai.ledger_file import energy as kept

    try:
        told = client(config).get(f"/localai/energy?{urlencode({'by': by, 'days': days})}")
    except DaemonUnreachable:
        rows = kept(config.home / "ledger.db", by, time.time() - days * _DAY)
        told = {"rows": rows, "quality": None, "sensors": None, "since_start": None}
    tariff, carbon = (getattr(config, name) or told.get(name) or 0.0 for name in ("tariff", "carbon"))
    currency = config.currency or told.get("currency") or ""
    return {**told, **whole(told["rows"], by, days, tariff=tariff, currency=currency, carbon=carbon)}
