"""What an engine told while it served, of paged weights and of guessed tokens: kept for the plans of later loads."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from backends.guesses import Guesses
from backends.paging_report import WeightsReport
from localai.calibration_store import CalibrationStore, PagedReading, identity
from localai.choice import Choice
from localai.errors import OutOfResources
from localai.guess_records import GuessRecords

_log = logging.getLogger(__name__)


def note_paging(store: CalibrationStore, device: str, choice: Choice, report: WeightsReport) -> None:
    """Keep the last report of an engine; where that cannot be written, later plans are only less exact."""
    try:
        reading = PagedReading(
            device=device,
            model=identity(choice.model),
            budget=report.budget,
            rate=report.rate,
            compute_s=report.compute_s,
            coverage=report.coverage,
            at=round(time.time(), 1),
        )
        store.keep_paged(reading)
    except (OutOfResources, OSError) as error:
        _log.warning("how %s was paged is not remembered: %s", choice.model.id, error)


def note_guesses(home: Path, device: str, choice: Choice, found: Guesses) -> None:
    """Keep what guessing tokens brought on an engine that ends; a model that is gone is forgotten."""
    if choice.model.format == "echo":
        return
    try:
        GuessRecords(home).note(device, identity(choice.model), choice.backend, choice.mode, found)
    except OSError as error:
        _log.warning("what guesses brought with %s is not remembered: %s", choice.model.id, error.strerror)
