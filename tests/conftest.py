"""Fixtures of the tests that speak to a daemon from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon_fixture import Daemon, running


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """One daemon for all tests that leave it as they found it."""
    with running() as started:
        yield started


@pytest.fixture
def fresh() -> Iterator[Daemon]:
    """A daemon for one test, which may ill-treat it."""
    with running() as started:
        yield started
