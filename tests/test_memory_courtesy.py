"""Long writes give way to searches, and never for good."""

from __future__ import annotations

import time
from threading import Event, Thread

from memory_store.courtesy import LONGEST_PAUSE_SECONDS, Courtesy


def test_a_writer_waits_for_a_search_and_not_for_its_own() -> None:
    courtesy, asked, done = Courtesy(), Event(), Event()

    def search() -> None:
        with courtesy.asking(), courtesy.asking():
            asked.set()
            done.wait(30)

    courtesy.give_way()
    searching = Thread(target=search)
    searching.start()
    asked.wait(30)
    began = time.perf_counter()
    courtesy.give_way()
    assert time.perf_counter() - began >= 0.9 * LONGEST_PAUSE_SECONDS, "it has waited, and then gone on"
    courtesy._mine.works_until = time.monotonic() + 60
    courtesy.give_way()
    assert not done.is_set(), "who has just waited goes on beside a search"
    done.set()
    searching.join()
    with courtesy.asking():
        assert courtesy._asking == 1
        courtesy.give_way()
    assert courtesy._asking == 0
