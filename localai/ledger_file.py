"""The ledger's file read without a daemon: nothing is written, made or brought up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from localai.energy.report import By, read
from localai.errors import ConfigError
from localai.sqlite_file import translated


def energy(path: Path, by: By, since: float) -> list[dict[str, Any]]:
    """Rows as `Ledger.energy`; [] where nothing was asked yet. Raises LocalaiError where the file cannot be read."""
    if not path.exists():
        return []
    with translated("ledger"), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row

        def run(sql: str, values: list[float]) -> list[dict[str, Any]]:
            return [dict(row) for row in db.execute(sql, values)]

        known = {row["name"] for row in run("select name from pragma_table_info('queries')", [])}
        if not known:
            return []
        if "forecast_tokens" not in known:
            raise ConfigError("the ledger file is of an older localai", "`localai start` brings it up to date")
        return read(run, by, since)
