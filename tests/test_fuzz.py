"""A short slice of the long runs in `tests/fuzz`: the same cases every time, none of which may end in a fault."""

from __future__ import annotations

import pytest

from tests.fuzz import openapi
from tests.fuzz.run import TARGETS, play


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_refuses_or_takes_what_it_is_given(target: str) -> None:
    ran, sound = play(target, 40, number=1)
    assert ran >= 40
    assert 0 < sound < ran


def test_the_document_promises_what_the_daemon_answers() -> None:
    with openapi.target() as daemon:
        found = openapi.check(daemon, 76)
        assert daemon.ask("GET", "/health").status == 200
    assert found.broken == []
    assert found.cases > 70
    assert {200, 400, 404} <= set(found.statuses)
