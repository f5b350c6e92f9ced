"""The shelf of idle sequences: what is found, what goes first, and that its budget holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.prefix import Held
from backends.shelf import Shelf

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def state(tokens: list[int]) -> bytearray:
    return bytearray(10 * len(tokens))


def test_the_longest_prefix_is_found() -> None:
    shelf = Shelf(1000)
    for tokens in ([1, 2, 3, 4], [1, 2, 9], [7]):
        shelf.put(Held(tokens), state(tokens))
    key, common = shelf.best(Held([1, 2, 9, 9, 9]))
    assert (shelf.get(key).held.tokens, common) == ([1, 2, 9], 3)
    assert shelf.best(Held([8])) == (0, 0)


def test_nothing_is_found_under_another_root() -> None:
    shelf = Shelf(1000)
    shelf.put(Held([1, 2, 3], "one"), state([1, 2, 3]))
    assert shelf.best(Held([1, 2, 3], "other")) == (0, 0)
    shelf.put(Held([1, 2, 3, 4], "other"), state([1, 2, 3, 4]))
    assert shelf.best(Held([1, 2, 3, 4], "one"))[1] == 3


def test_a_continuation_takes_the_place_of_what_it_continues() -> None:
    shelf = Shelf(1000)
    shelf.put(Held([1, 2]), state([1, 2]))
    shelf.put(Held([1, 2, 3]), state([1, 2, 3]))
    assert len(shelf) == 1


def test_the_longest_unused_goes_first() -> None:
    shelf = Shelf(40)
    shelf.put(Held([1, 1]), state([1, 1]))
    shelf.put(Held([2, 2]), state([2, 2]))
    shelf.get(shelf.best(Held([1, 1]))[0])
    shelf.put(Held([3, 3]), state([3, 3]))
    assert shelf.best(Held([2, 2])) == (0, 0)
    assert shelf.best(Held([1, 1]))[1] == 2


@given(st.lists(TOKENS, max_size=30), st.integers(0, 200))
def test_the_budget_always_holds(puts: list[list[int]], budget: int) -> None:
    shelf = Shelf(budget)
    for tokens in puts:
        shelf.put(Held(tokens), state(tokens))
        assert shelf.size <= budget
