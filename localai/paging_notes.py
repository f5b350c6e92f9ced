"""What an engine with paged weights told while it served, kept for the plans of later loads."""

from __future__ import annotations

import logging
import time

from backends.paging_report import WeightsReport
from localai.calibration_store import CalibrationStore, PagedReading, identity
from localai.choice import Choice
from localai.errors import OutOfResources

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
