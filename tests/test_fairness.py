"""Who is served next under overload: programs in turn, bounded, told when to come back; and slow readers cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message

from backends.contract import Priority
from localai.api.wire import EventStream, Frames
from localai.errors import DeadlinePassed, TooBusy
from localai.fairness import Line, Wish
from localai.messages import Delta, TurnEvent
from tests.daemon_fixture import Daemon, running, wait_for

ROOM = 8


@pytest.fixture(scope="module")
def narrow() -> Iterator[Daemon]:
    with running(LOCALAI_QUEUE="8") as started:
        yield started


class Crowd:
    """Jobs before one line; `served` lists who got a place, in order."""

    def __init__(self, most: int = 256) -> None:
        self.line = Line(most)
        self.served: list[str] = []
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, name: str, cost: float = 10, width: int = 1, priority: Priority = "normal") -> None:
        self._tasks.append(asyncio.create_task(self._one(name, Wish(cost, width, priority))))
        await asyncio.sleep(0)

    async def _one(self, name: str, wish: Wish) -> None:
        with self.line.attending(name[0], 1):
            async with self.line.place(name[0], wish, ROOM):
                self.served.append(name)
                self.inside.append(name)
                await self._leave.setdefault(name, asyncio.Event()).wait()
                self.inside.remove(name)

    async def end(self, name: str) -> None:
        """The job of `name` is done; who comes next has its place when this returns."""
        self._leave.setdefault(name, asyncio.Event()).set()
        for _ in range(4):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_program_with_many_requests_leaves_room_for_the_next() -> None:
    crowd = Crowd()
    for number in range(50):
        await crowd.come(f"a{number}")
    assert len(crowd.served) == ROOM - 1
    await crowd.come("b0")
    assert crowd.served[-1] == "b0"
    await crowd.close()


async def test_programs_are_served_by_what_they_took() -> None:
    crowd = Crowd()
    for number in range(30):
        await crowd.come(f"a{number}", cost=100)
    for number in range(30):
        await crowd.come(f"b{number}", cost=50)
    for _ in range(24):
        await crowd.end(crowd.inside[0])
    tail = [name[0] for name in crowd.served[8:]]
    # Half as large, so twice as many, from the moment on that both wait.
    assert 2 <= tail.count("b") / tail.count("a") <= 3.5
    await crowd.close()


async def test_who_rested_has_not_saved_up() -> None:
    crowd = Crowd()
    await crowd.come("b-first")
    await crowd.end("b-first")
    for number in range(20):
        await crowd.come(f"a{number}")
        await crowd.end(f"a{number}")
    for number in range(20, 40):
        await crowd.come(f"a{number}")
    for number in range(20):
        await crowd.come(f"b{number}")
    for _ in range(12):
        await crowd.end(crowd.inside[0])
    names = [name[0] for name in crowd.served[-10:]]
    assert 3 <= names.count("a") <= 7
    await crowd.close()


async def test_whoever_types_goes_first_and_beyond_the_room() -> None:
    crowd = Crowd()
    for name in "abcdefgh":
        await crowd.come(name)
    await crowd.come("a-late", priority="background")
    await crowd.come("a-now", priority="interactive")
    assert crowd.served[-1] == "a-now"
    assert len(crowd.inside) == ROOM + 1
    await crowd.close()


async def test_a_wide_job_takes_its_sequences() -> None:
    crowd = Crowd()
    await crowd.come("a0", width=6)
    await crowd.come("b0", width=4)
    assert crowd.served == ["a0"]
    for number in range(4):
        await crowd.come(f"c{number}")
    # The wide one is waited for, or the narrow ones would pass it by for ever.
    assert crowd.served == ["a0"]
    await crowd.end("a0")
    assert crowd.served[:2] == ["a0", "b0"]
    await crowd.close()


async def test_too_many_are_told_when_to_come_back() -> None:
    line = Line(8)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            stack.enter_context(line.attending("a", 1))
        with pytest.raises(TooBusy) as caught, line.attending("a", 1):
            pass
        assert caught.value.retry_after in range(1, 61)
        for name in "bcde":
            stack.enter_context(line.attending(name, 1))
        with pytest.raises(TooBusy), line.attending("f", 1):
            pass
    with line.attending("a", 1):
        pass


async def test_parts_of_one_request_count_as_one() -> None:
    line = Line(8)
    async with AsyncExitStack() as stack:
        for _ in range(2048):
            stack.enter_context(line.attending("a", 1 / 2048))
        stack.enter_context(line.attending("a", 1))


async def test_a_deadline_ends_the_wait_and_frees_the_place() -> None:
    line = Line(8)
    with line.attending("a", 1), line.attending("b", 1):
        async with line.place("a", Wish(1), 1):
            with pytest.raises(DeadlinePassed):
                async with line.place("b", Wish(1, deadline=0.01), 1):
                    pass
        async with line.place("b", Wish(1, deadline=0.01), 1) as waited:
            assert waited < 0.01


@pytest.mark.parametrize("stalls", [False, True], ids=["reads", "stalls"])
async def test_a_reader_that_takes_nothing_is_given_up(stalls: bool) -> None:
    closed = asyncio.Event()
    sent: list[Message] = []

    async def events() -> AsyncGenerator[TurnEvent, None]:
        try:
            for _ in range(3):
                yield Delta(0, "word")
        finally:
            closed.set()

    async def send(message: Message) -> None:
        sent.append(message)
        if stalls and message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def nothing() -> None:
        pass

    opening = asyncio.ensure_future(nothing())
    await opening
    await EventStream([], opening, events(), lambda _: b"data: {}\n\n", Frames(), stall_s=0.05)({}, receive, send)
    assert closed.is_set()
    words = sum(message.get("body") == b"data: {}\n\n" for message in sent)
    assert (words, sent[-1]["more_body"]) == ((1, True) if stalls else (3, False))


def test_fifty_requests_do_not_starve_another_program(daemon: Daemon) -> None:
    model = daemon.echo("crowded.txt", 10)
    ended: list[str] = []

    def ask(name: str, length: int) -> int:
        body = {"model": model, "prompt": "x" * length, "max_tokens": length}
        answer = daemon.ask("POST", "/v1/completions", body, {"User-Agent": name}, unix=True)
        ended.append(name)
        return answer.status

    assert ask("loader", 1) == 200
    with ThreadPoolExecutor(60) as pool:
        crowd = [pool.submit(ask, "crowd", 100) for _ in range(50)]
        wait_for(lambda: any(engine["users"] >= 20 for engine in daemon.engines()))
        other = [pool.submit(ask, "other", 5) for _ in range(3)]
        assert {job.result() for job in (*crowd, *other)} == {200}
    # At least six of the crowd were waiting when the other came, and still are when it is served.
    assert max(place for place, name in enumerate(ended) if name == "other") < 47


def test_more_than_the_queue_holds_gets_429(narrow: Daemon) -> None:
    model = narrow.echo("narrow.txt", 30)
    body = {"model": model, "prompt": "x" * 80, "max_tokens": 80}
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(narrow.ask, "POST", "/v1/completions", body, {"User-Agent": "crowd"}, unix=True)
            for _ in range(12)
        ]
        answers = [job.result() for job in asked]
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert all(answer.error["code"] == "too_busy" for answer in refused)
