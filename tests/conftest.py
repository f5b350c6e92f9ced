"""Fixtures of the tests that speak to a daemon from outside or read files into a memory; how hypothesis draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from memory_store.extractor import Extractor
from memory_store.ingest import Ingest
from memory_store.store import Store
from tests.daemon_fixture import Daemon, running
from tests.tiny_models import shallow_starter

# The same examples every time, however long a busy machine takes over one: a failure is of the code, and comes again.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


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


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter's first layers, for what does not depend on sense: a quarter of its work a token and less."""
    return shallow_starter(tmp_path_factory.mktemp("shallow") / "shallow.gguf", layers=4)


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    made = Extractor()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "memory.db")
    yield opened
    opened.close()


@pytest.fixture
def ingest(store: Store, extractor: Extractor) -> Ingest:
    return Ingest(store, extractor=extractor)
