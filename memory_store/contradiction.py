"""Do two short texts say different things of the same subject? A cheap, deterministic first look, without any model.

Two texts enter, yes or no leaves. It errs towards no: whoever knows better (a person, a model) may judge too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LEAST_SHARED = 2
SAME_SUBJECT = 0.75
SAME_SENTENCE = 0.5
LONGEST_WORDS = 80

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_NEGATIONS = frozenset(
    (
        "not",
        "no",
        "never",
        "none",
        "without",
        "cannot",
        "isn't",
        "aren't",
        "wasn't",
        "don't",
        "doesn't",
        "didn't",
        "won't",
    )
)
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """
        a an the of in on at to for by with from and or as is are was were be been it its this that we i you they he she
        has have had do does did will would can could our my your their
        """,
    )
)


@dataclass(frozen=True, slots=True)
class _Read:
    """The words that carry meaning, with the place of their first use; `names` are capitals within a sentence or
    before a colon at its beginning. `label`: the number that the subject is called by, as the 12 in "Bus 12 stops".
    """

    words: dict[str, int]
    numbers: frozenset[str]
    names: frozenset[str]
    capitals: frozenset[str]
    negated: bool
    label: str


def contradicts(one: str, other: str) -> bool:
    """True where the subject is the same and a number, a name or a "not" differs."""
    a, b = _read(one), _read(other)
    if max(len(a.words), len(b.words)) > LONGEST_WORDS or _other_in_two_places(one, other):
        return False
    if a.label and b.label and a.label != b.label:
        return False
    plain_a, plain_b = a.words.keys() - a.numbers, b.words.keys() - b.numbers
    shared = plain_a & plain_b
    if len(shared) < LEAST_SHARED:
        return False
    overlap = len(shared) / min(len(plain_a), len(plain_b))
    values_a, values_b = a.numbers - {b.label}, b.numbers - {a.label}
    if values_a and values_b:
        other_subject = a.names - b.words.keys() and b.names - a.words.keys()
        return overlap >= SAME_SUBJECT and not values_a & values_b and not other_subject
    if a.negated != b.negated:
        return overlap >= SAME_SUBJECT and a.names - shared == b.names - shared
    # A capital at the beginning of both sentences says nothing: within one of them it is a name.
    subject = shared & a.capitals & b.capitals & (a.names | b.names)
    return overlap >= SAME_SENTENCE and _another_name(a, b, subject) and _another_name(b, a, subject)


def _other_in_two_places(one: str, other: str) -> bool:
    """One sentence with two of its places filled otherwise is about another thing: it has an answer of its own."""
    first, second = _TOKEN.findall(one.casefold()), _TOKEN.findall(other.casefold())
    if len(first) != len(second):
        return False
    differs = [a != b and not {a, b} <= _EMPTY for a, b in zip(first, second, strict=True)]
    places = sum(here and not before for before, here in zip([False, *differs], differs, strict=False))
    return bool(places > 1 and sum(differs) * 2 <= len(differs))


def _read(text: str) -> _Read:
    words: dict[str, int] = {}
    names: set[str] = set()
    capitals: set[str] = set()
    negated = False
    label, end = "", -1
    for match in _TOKEN.finditer(text):
        word = match.group().casefold()
        negated ^= word in _NEGATIONS
        if word in _EMPTY or word in _NEGATIONS:
            continue
        words.setdefault(word, len(words))
        if words[word] == 1 and word.isdigit() and text[end : match.start()] == " ":
            label = word
        end = match.end()
        if match.group()[0].isupper():
            capitals.add(word)
            if text[match.end() : match.end() + 1] == ":" or not _begins_sentence(text, match.start()):
                names.add(word)
    numbers = frozenset(word for word in words if any(char.isdigit() for char in word))
    label = label if len(words.keys() - numbers) > 1 else ""
    return _Read(words, numbers, frozenset(names) - numbers, frozenset(capitals), negated, label)


def _begins_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip()
    return not before or before[-1] in ".!?\n"


def _another_name(a: _Read, b: _Read, subject: set[str]) -> bool:
    """Has `a` a name that `b` lacks, after the named subject of both? Before it, it would be another subject."""
    own = [a.words[name] for name in a.names if name not in b.words]
    return bool(own and subject) and min(own) > min(a.words[name] for name in subject)
