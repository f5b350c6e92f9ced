"""What quotes a forgotten text, and what does not."""

from __future__ import annotations

import pytest

from localai.quotations import Quotations

PAGE = "The harbour of Brisk has four piers. Its keeper is called Quixandra Moll, and she is shy.\nRopes are blue."


@pytest.mark.parametrize(
    ("forgotten", "said", "expected"),
    [
        ("My boat is called Quixandra.", "Remember that my boat is called Quixandra, will you?", True),
        ("My boat is called Quixandra.", "MY  BOAT is\ncalled Quixandra", True),
        ("Le cafe\u0301 du port", "le café du port ferme", True),
        (PAGE, "It says: its keeper is called Quixandra Moll, and she is shy.", True),
        (PAGE, "Ropes are blue.", False),
        ("My boat is called Quixandra.", "My boat is called Anna.", False),
        ("short", "short", False),
    ],
)
@pytest.mark.parametrize("others", [0, 200], ids=["alone", "among many"])
def test_quoting(forgotten: str, said: str, expected: bool, others: int) -> None:
    noise = [f"Nobody ever says sentence number {n} of these" for n in range(others)]
    assert Quotations([*noise, forgotten]).within(said) is expected


def test_nothing_is_quoted_of_nothing() -> None:
    assert not Quotations([])
    assert Quotations(["a text that is long enough"])
