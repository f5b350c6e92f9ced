"""What a text names: people, places, programs, files, identifiers, addresses; by its spelling alone, without a model.

A text enters, names in lower case leave, in the order of their first mention. The same text gives the same names.
"""

from __future__ import annotations

import re

MOST_NAMES = 16
_LONGEST = 80
_MARKED = re.compile(
    r"(?P<url>https?://[^\s<>\"')\]]+)"
    r"|(?P<mail>[\w.+-]+@[\w-]+\.[\w.-]*\w)"
    r"|(?P<path>(?<![\w/])(?:~|\.{1,2})?(?:/[\w.+-]+){2,})"
    r"|(?P<tag>(?<!\w)[#@][^\W\d_]\w+)"
    r"|(?P<code>`[^`\n]{2,60}`)"
    r"|(?P<dotted>\b[^\W\d_]\w*(?:(?:\.|::)[^\W\d_]\w*)+(?:\(\))?)"
    r"|(?P<snake>\b\w+_\w+\b)"
    r"|(?P<camel>\b[^\W\d_]*[a-z][A-Z]\w*\b)"
    r"|(?P<name>\b[A-Z][\w'-]*(?:(?: (?:of|de|van|von|der|the|la))? [A-Z][\w'-]*){0,4})"
)
_START = re.compile(r"(?:^|[.!?:;]\s+|\n\s*|[\"“(]\s*)$")
# Words that begin sentences, and tell nothing where they stand alone.
_PLAIN = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be but by can could did do does for from had has have he her his how i if in is it its may
        my no not note of on one or our see set she should so some such than that the their then there these they this
        those to under use used was we were what when where which while who why will with would yes you your""",
    )
)


def names(text: str) -> tuple[str, ...]:
    """At most 16. A single capitalised word counts where it does not merely begin a sentence."""
    found: dict[str, None] = {}
    for match in _MARKED.finditer(text[:20_000]):
        name = match[0].strip("`").removesuffix("()")
        if match.lastgroup == "name":
            name = _without_start(name, text, match.start())
        name = name.strip("'-").casefold()
        if 2 <= len(name) <= _LONGEST and name not in _PLAIN:
            found.setdefault(name)
            if len(found) == MOST_NAMES:
                break
    return tuple(found)


def _without_start(name: str, text: str, at: int) -> str:
    words = name.split(" ")
    while words and words[0].casefold() in _PLAIN:
        words.pop(0)
    begins = bool(_START.search(text[max(0, at - 8) : at])) and len(words) == len(name.split(" "))
    return "" if begins and len(words) == 1 and not words[0].isupper() else " ".join(words)
