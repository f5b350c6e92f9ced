"""Markdown that grows shows the same as Markdown that came at once, wherever it is cut."""

from __future__ import annotations

import random

import pytest
from rich.cells import cell_len

from localai.sanitize import clean
from tui.document import Document
from tui.formulas import readable
from tui.painting import Painter
from tui.palette import Palette, palette_of
from tui.turns import Turn

SOURCES = {
    "fence": "Text\n\n```python\nprint(1)\n\nx\n```\n\nafter\n",
    "open fence": "a\n\n```\ncode that never ends\n\n# no heading",
    "nested fence": "- one\n\n  ```sh\n  ls\n  ```\n\n- two\n\nend",
    "long fence": "````md\n```\ninner\n```\n````\nout",
    "table": "| a | b |\n|---|---|\n| 1 | 2 |\n\nafter",
    "list": "1. one\n\n2. two\n   more\n\n   para\n3. three\n",
    "setext": "Title\n=====\n\nbody\n---\n",
    "reference": "See [it][1] and\n\nmore\n\nstill more\n\n[1]: https://example.org\n",
    "quote": "> a\nlazy\n\n> b\n\n* * *\n",
    "formula": "The $x^2$ of\n\n$$\n\\frac{a}{b}\n$$\n\nso \\(y\\) and\n\\[\nz\n= 1\n\\]\nend $5 or $6\n",
    "broad table": f"| one | two |\n|---|---|\n| {'a' * 30} | {'b' * 30} |\n",
    "wide": "# 日本語の見出し\n\n🙂 emoji — עברית\n\n- 中文\n",
}


def palette() -> Palette:
    return palette_of({}, dark=True, plain=True)


def painted(turn: Turn, width: int = 40) -> list[str]:
    return ["".join(s.text for s in line).rstrip() for line in turn.lines(Painter(width, palette()))]


@pytest.mark.parametrize("pieces", ["characters", "random"])
@pytest.mark.parametrize("name", SOURCES)
def test_growing_text_ends_like_whole_text(name: str, pieces: str) -> None:
    source, chance = SOURCES[name], random.Random(name)
    grown, at = Turn(role="assistant"), 0
    while at < len(source):
        size = 1 if pieces == "characters" else chance.randint(1, 9)
        grown.write(source[at : at + size], "")
        painted(grown)
        at += size
    grown.finish()
    assert painted(grown) == painted(Turn(role="assistant", content=source))


def test_only_the_end_is_parsed_again() -> None:
    document = Document("one\n\ntwo\n\nthree\n\n")
    before = document.blocks[0]
    document.append("four\n\nfive")
    assert document.blocks[0] is before


@pytest.mark.parametrize("width", [8, 20, 41, 120])
def test_no_line_is_wider_than_the_window(width: int) -> None:
    for name, source in SOURCES.items():
        lines = Turn(role="assistant", content=source).lines(Painter(width, palette()))
        assert max(sum(cell_len(s.text) for s in line) for line in lines) <= width + 2, name


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\frac{-b \pm \sqrt{b^2-4ac}}{2a}", ["(-b ± √(b²-4ac))/2a"]),
        (r"\sum_{i=0}^{n} x_{ij} \leq \mathbb{R}^\infty", ["∑ᵢ₌₀ⁿ xᵢⱼ ≤ ℝ^∞"]),
        (r"\begin{aligned} a &= \sin x \\ &= \det(A) \end{aligned}", ["a = sin x", "= det (A)"]),
        (r"\unknown{y}", ["\\unknown y"]),
        (r"x^{", ["x^"]),
        ("{" * 999, ["{" * 999]),
        (r"\input{/etc/hostname}", [r"\input{/etc/hostname}"]),
    ],
    ids=["root", "sum", "lines", "unknown", "open", "deep", "file"],
)
def test_formulas_are_spelled_in_unicode(latex: str, shown: list[str]) -> None:
    assert list(readable(latex)) == shown


def test_formulas_are_told_from_money_and_code() -> None:
    text = r"US$5 to $10, `$a$`, $x^2$ and \[y^3\]"
    shown = painted(Turn(role="assistant", content=text), 80)
    assert [line for line in shown if line] == ["  US$5 to $10, $a$, x² and", "      y³"]


def test_a_table_too_broad_becomes_entries() -> None:
    turn = Turn(role="assistant", content=SOURCES["broad table"])
    assert "─" in "".join(painted(turn, 80))
    assert [line.strip() for line in painted(turn, 40) if line.strip()] == [f"one: {'a' * 30}", f"two: {'b' * 30}"]


def test_all_fences_are_found_in_order() -> None:
    assert [f.code for f in Document(SOURCES["nested fence"] + "\n\n```\nlast\n```").fences] == ["ls", "last"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[2Jx", "[2Jx"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\x9d\x7f\x00é…", "é…"),
        ("a\u202eb\u2066c\u2028d", "abcd"),
        ("עברית", "עברית"),
    ],
    ids=["escape", "line ends", "C1", "reordering", "right to left"],
)
def test_control_characters_are_removed(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
