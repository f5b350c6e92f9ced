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
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# Letters of other scripts, and digits, that are drawn like Latin ones.
_TWINS = str.maketrans("асеіјорѕхуԁһԛԝαβεικνορτυχ013457", "aceijopsxydhqwabeiknoptuxoleast")


def orders_about(text: str) -> bool:
    """Does the text speak to a model, giving orders or playing a role?"""
    return _ORDERS.search(unicodedata.normalize("NFKC", text)) is not None


def looks_like(name: str, other: str) -> bool:
    """Would a person take one name for the other? Equal names do, too."""
    return _skeleton(name) == _skeleton(other)


def _skeleton(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).casefold()
    letters = "".join(char for char in plain if char.isalnum())
    return letters.translate(_TWINS)
