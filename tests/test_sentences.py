"""Texts to sentences: marks of many scripts, abbreviations, lists, and what is never broken."""

from __future__ import annotations

import pytest

from memory_store.sentences import sentences


def cut(text: str) -> list[str]:
    return [text[each.start : each.end] for each in sentences(text)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is red. Is it? Yes!", ["It is red.", "Is it?", "Yes!"]),
        ("He said “Go.” She went…  (Both did.) End", ["He said “Go.”", "She went…", "(Both did.)", "End"]),
        ("猫は白い。犬は黒い！終わり", ["猫は白い。", "犬は黒い！", "終わり"]),
        ("यह लाल है। वह नीला है।", ["यह लाल है।", "वह नीला है।"]),
        ("هل هذا بيت؟ نعم.", ["هل هذا بيت؟", "نعم."]),
        ("Dr. Velde and J. Lund met at 3.30 in St. Ives, e.g. by car.", 1),
        ("The price is 4.50. Ask for change.", ["The price is 4.50.", "Ask for change."]),
        ("One line\nthat goes on. Another\n\nA block", ["One line\nthat goes on.", "Another", "A block"]),
        ("Buy:\n- milk. Two litres.\n- bread\n  of rye\n1. then go", 4),
        ("Run this. Then wait.\n```\na = 1. \nb\n```", 1),
        ("def f(x):\n    # Says x. Adds y.\n    return x", 1),
        ("| a | b |\n| 1. | 2. |", 1),
        (" \n\t ", []),
        ("...", ["..."]),
    ],
    ids=str,
)
def test_a_text_is_cut_where_its_sentences_end(text: str, parts: list[str] | int) -> None:
    found = cut(text)
    assert (found if isinstance(parts, list) else len(found)) == parts
    assert "".join("".join(found).split()) == "".join(text.split()), "nothing is lost"


def test_items_of_a_list_stay_whole() -> None:
    text = "Buy:\n- milk. Two litres.\n- bread"
    assert cut(text) == ["Buy:", "- milk. Two litres.", "- bread"]
    assert [each.item for each in sentences(text)] == [False, True, True]
