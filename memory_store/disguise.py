"""Text and names that pretend: orders to a model inside a document, and names that look like another's.

Strings enter, yes or no leaves. A hint for the write gate, not a proof: what gets through is still fenced when shown.
"""

from __future__ import annotations

import re
import unicodedata

_ORDERS = re.compile(
    r"""
    \b(ignore|disregard|forget|override|bypass)\b.{0,40}\b(all|any|every|previous|prior|earlier|above|other|those|these)\b
    | \b(previous|prior|earlier|above|system)\s+(instruction|prompt|message|rule)s?\b
    | (^|\n)\s*\W{0,3}\s*(system|assistant|developer|user)\s*[:>\]]
    | (^|[.!?]\s|\n)\s*(assistant|ai|model|chatbot)\s*,
    | <\|[^|>]{1,40}\|> | \[/?INST\] | <</?SYS>> | </?(system|instructions?)>
    | \byou\s+(must|should|shall|will|are\s+to)\s+(now|never|not|always|only)\b
    | \b(must|do|should)\s+not\s+(mention|reveal|cite|tell|disclose|quote|repeat)\b
    | \bnever\s+(mention|reveal|cite|tell|disclose)\b
    | \bwhen(ever)?\s+(you\s+are\s+)?asked\b.{0,60}\b(reply|answer|respond|say)\b
    | \b(reply|answer|respond)\s+(exactly|only|with\s+this|with\s+the\s+following)\b
    | \b(ignorier\w*|missachte\w*|vergiss|ignorez|oublie[rz]?|ignor[ai]r?|olvid[ae]r?|dimentica\w*|esque[cç]a)\b
      .{0,60}\b(anweisung\w*|vorgaben|regeln|instruc\w+|instruç\w+|istruzion\w+|consignes?)\b
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# Letters of other scripts, and digits, that are drawn like Latin ones.
_TWIN_LETTERS = str.maketrans("асеіјорѕхуԁһԛԝαβεικνορτυχ", "aceijopsxydhqwabeiknoptux")
_TWINS = _TWIN_LETTERS | str.maketrans("013457", "oleast")


def orders_about(text: str) -> bool:
    """Does the text speak to a model, giving orders or playing a role? As it is read, and as it is drawn."""
    plain = unicodedata.normalize("NFKC", text)
    if not plain.isascii():
        plain = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    drawn = plain.casefold().translate(_TWIN_LETTERS)
    return any(_ORDERS.search(form) is not None for form in {plain, drawn})


def looks_like(name: str, other: str) -> bool:
    """Would a person take one name for the other? Equal names do, too."""
    return _skeleton(name) == _skeleton(other)


def _skeleton(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).casefold()
    letters = "".join(char for char in plain if char.isalnum())
    return letters.translate(_TWINS)
