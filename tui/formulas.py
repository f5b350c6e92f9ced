"""Mathematics that a terminal can show: LaTeX enters, Unicode leaves; and where Markdown holds such LaTeX.

pylatexenc reads the LaTeX. What it cannot read stays as it was written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from localai.sanitize import clean

_ABOVE = str.maketrans("0123456789+-−=()abcdefghijklmnoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_ABOVE |= str.maketrans("ABDEGHIJKLMNOPRTUVWβγδθφχ′*", "ᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵝᵞᵟᶿᵠᵡ′*")
_BELOW = str.maketrans("0123456789+-−=()aehijklmnoprstuvxβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ")
_RAISED = {"^": r"\lasup ", "_": r"\lasub "}
_FRACTIONS = ("frac", "dfrac", "tfrac", "cfrac")
_SILENT = ("left", "right", "middle", "boxed", "overline", "displaystyle", "textstyle", "limits", "nolimits")
_SIZES = ("big", "Big", "bigg", "Bigg", "bigl", "bigr")
_WORDS = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "log", "ln", "exp", "max", "min", "sup")
_MORE_WORDS = ("inf", "det", "dim", "ker", "gcd", "arg", "argmax", "argmin", "deg", "Pr", "arcsin", "arccos", "arctan")
_RELATIONS = re.compile(r"\s*([=≠≤≥<>≈≡≅∼∝→⟶←↦⇒⟹⇔⟺∈∉⊂⊆⊃⊇±×])\s*")
_IN_TEXT = re.compile(
    r"\$\$(?P<double>[^$`]{1,4000})\$\$|\$(?P<dollar>(?! )[^$`]{1,4000}(?<![ \\]))\$(?!\w)"
    r"|\\\((?P<round>.{1,4000}?)\\\)|\\\[(?P<square>.{1,4000}?)\\\]",
    re.DOTALL,
)
"""A dollar before a space, and one after a space or before a letter or digit, is money."""
_LONGEST = 4000
"""Characters of a formula above which it is left as it was written; brackets in brackets are counted too."""
_DEEPEST = 40


def with_formulas(parser: MarkdownIt) -> MarkdownIt:
    r"""The parser, which now finds `$x$`, `$$x$$`, `\(x\)` and `\[x\]`; amounts of dollars stay what they are."""
    parser.inline.ruler.before("escape", "formula", _inside)
    parser.block.ruler.before("fence", "formula", _alone, {"alt": ["paragraph", "blockquote", "list"]})
    return parser


@lru_cache(maxsize=512)
def readable(latex: str) -> tuple[str, ...]:
    """The formula in lines."""
    if len(latex) > _LONGEST or _depth(latex) > _DEEPEST:
        return (" ".join(latex.split()),)
    raised = re.sub(r"(?<!\\)[\^_]", lambda mark: _RAISED[mark[0]], latex)
    reader, known = _reader()
    text: str = reader.latex_to_text(raised, latex_context=known, tolerant_parsing=True)
    lines = (" ".join(_RELATIONS.sub(r" \1 ", clean(line)).split()) for line in text.split("\n"))
    return tuple(line for line in lines if line) or (" ".join(latex.split()),)


def _depth(latex: str) -> int:
    """Of the deepest bracket."""
    return max(accumulate((c in "{[") - (c in "}]") for c in latex), default=0)


@lru_cache(maxsize=1)
def _reader() -> tuple[Any, Any]:
    """What makes text of LaTeX, and what it knows of macros."""
    # Large, and most conversations show no formula.
    from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db
    from pylatexenc.latexwalker import get_default_latex_context_db as walker_context
    from pylatexenc.macrospec import MacroSpec

    shown, read = get_default_latex_context_db(), walker_context()
    replaced = {**dict.fromkeys(_FRACTIONS, _fraction), "sqrt": _root, "lasup": _above, "lasub": _below}
    words = {name: f" {name} " for name in (*_WORDS, *_MORE_WORDS)}
    specs = [
        MacroTextSpec(name, act)
        for name, act in {**replaced, **words, **dict.fromkeys((*_SILENT, *_SIZES), "")}.items()
    ]
    shown.add_context_category("formulas", macros=specs, prepend=True)
    shown.set_unknown_macro_spec(MacroTextSpec("", _unknown))
    taken = [*(MacroSpec(name, "{{") for name in _FRACTIONS), *(MacroSpec(name, "{") for name in ("lasup", "lasub"))]
    read.add_context_category("formulas", macros=taken, prepend=True)
    return LatexNodes2Text(latex_context=shown, math_mode="text", strict_latex_spaces=True), read


# pylatexenc passes what it has by these names.


def _fraction(node: Any, l2tobj: Any) -> str:
    return f"{_whole(_argument(node, l2tobj, 0))}/{_whole(_argument(node, l2tobj, 1))}"


def _root(node: Any, l2tobj: Any) -> str:
    degree = _argument(node, l2tobj, 0)
    sign = {"": "√", "2": "√", "3": "∛", "4": "∜"}.get(degree) or f"{_moved(degree, _ABOVE, '^')}√"
    return sign + _whole(_argument(node, l2tobj, 1))


def _above(node: Any, l2tobj: Any) -> str:
    return _moved(_argument(node, l2tobj, 0), _ABOVE, "^")


def _below(node: Any, l2tobj: Any) -> str:
    return _moved(_argument(node, l2tobj, 0), _BELOW, "_")


def _unknown(node: Any) -> str:
    """Nothing may vanish."""
    return f"\\{node.macroname} "


def _argument(node: Any, reader: Any, number: int) -> str:
    found = node.nodeargd.argnlist[number] if node.nodeargd and node.nodeargd.argnlist else None
    return "" if found is None else str(reader.nodelist_to_text([found])).strip()


def _whole(text: str) -> str:
    """In brackets where it would otherwise fall apart."""
    return text if len(text) <= 1 or re.fullmatch(r"[\w.]+[⁰¹²³⁴⁵⁶⁷⁸⁹]*", text) else f"({text})"


def _moved(text: str, table: dict[int, int], mark: str) -> str:
    """Raised or lowered where every character can be; else behind `mark`."""
    close = text.replace(" ", "")
    if close and all(ord(c) in table for c in close):
        return close.translate(table)
    return f"{mark}{close}" if len(close) <= 1 else f"{mark}({text})"


def _inside(state: StateInline, silent: bool) -> bool:
    """A formula within a paragraph."""
    found = _IN_TEXT.match(state.src, state.pos, state.posMax)
    if found is None or (found["dollar"] and state.pos and state.src[state.pos - 1].isalnum()):
        return False
    if not silent:
        kind = "math_inline_double" if found["double"] or found["square"] else "math_inline"
        state.push(kind, "math", 0).content = next(filter(None, found.groups()))
    state.pos = found.end()
    return True


def _alone(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula in lines of its own, none of them empty."""
    at = state.bMarks[start] + state.tShift[start]
    closing = {r"\[": r"\]", "$$": "$$"}.get(state.src[at : at + 2])
    if closing is None or state.is_code_block(start):
        return False
    for line in range(start, end):
        text = state.src[at + 2 : state.eMarks[line]].rstrip()
        if text.endswith(closing):
            break
        if state.isEmpty(line) or closing in text:
            return False
    else:
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.content, token.map = text[: -len(closing)], [start, line + 1]
        state.line = line + 1
    return True
