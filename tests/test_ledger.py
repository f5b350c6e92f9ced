"""The ledger's rows: written behind the answers, many at a time where the disk is slow, none lost and none mixed up."""

from __future__ import annotations

import logging
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from localai.errors import BadRequest
from localai.ledger import Ledger
from localai.messages import ChoiceDone, TurnRequest
from localai.metrics import Metrics


def test_a_burst_of_unlike_rows_is_written_whole(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db", Metrics())) as ledger:
        for number in range(250):
            request = TurnRequest(kind="chat", model=f"m{number}", prompt="x")
            with pytest.raises(BadRequest) if number % 7 == 3 else nullcontext(), ledger.entry(request) as entry:
                if number % 7 == 3:
                    raise BadRequest("no")
                entry.saw(ChoiceDone(0, "stop"))
            if number == 100:
                ledger.note_load({"model": "loaded"})
        rows = ledger.last(1000)[::-1]
        assert [row["model"] for row in rows] == [f"m{number}" for number in range(250)]
        assert {row["finish"] for row in rows[3::7]} == {"error"}
        assert {row["error"] for row in rows if row["finish"] == "stop"} == {None}
        assert [load["model"] for load in ledger.totals(0.0)["loads"]] == ["loaded"]


def test_a_row_after_the_end_is_told_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(tmp_path / "ledger.db", Metrics())
    ledger.close()
    with caplog.at_level(logging.ERROR):
        ledger.note_load({"model": "late"})
        ledger.note_load({"model": "later"})
    assert [record.getMessage().count("was closed") for record in caplog.records] == [1, 1]
