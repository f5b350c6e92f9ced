"""`localai energy`: what answers took, by day, model, app or conversation."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from localai.cli import show
from localai.config import load
from localai.lifecycle import client


@click.command()
@click.option("--by", type=click.Choice(["day", "model", "app", "conversation"]), default="day", help="What to sum by.")
@click.option("--days", type=click.IntRange(1, 3660), default=30, help="How many days to look back.")
@click.option("--json", "as_json", is_flag=True)
def energy(by: str, days: int, as_json: bool) -> None:
    """Show the joules of past answers, with cost and CO2 where `tariff` and `carbon` are configured."""
    from localai.energy.report import table

    path = f"/localai/energy?{urlencode({'by': by, 'days': days})}"
    show(client(load()).get(path), as_json, table)
