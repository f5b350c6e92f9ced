"""Texts that teach the classifier: how people put the questions of each category to a chat, and everything else.

The benchmark's own generators give the matter; the frames here give the manner. `drawn` is deterministic by seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from localai.auto.everyday import OTHER, TOPICS
from localai.bench import generate
from localai.bench.facts import choice
from localai.bench.programs import KNOWN, code
from localai.bench.tasks import Item

ELSE = "other"
_LEVELS = range(4)

Say = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a category; `frame` numbers the manner, so that whole manners can be held out."""

    text: str
    category: str
    frame: int


_NUMBERS = (
    "What is {a} {sign} {b}?",
    "{a} {sign} {b}",
    "Calculate {a} {sign} {b}.",
    "How much is {a} {word} {b}?",
    "Please work out {a} {word} {b} for me",
    "{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have now?",
    "There are {a} {thing} on the shelf and {b} are taken away. How many are left?",
    "A box holds {a} {thing}. How many {thing} are in {b} boxes?",
    "solve: {a}{sign}{b}=?",
    "If one ticket costs {a} dollars, what do {b} tickets cost?",
    "What's the sum of {a}, {b} and {c}?",
    "{name} reads {a} pages a day. How many pages is that in {b} days? Give only the number.",
    "I have {a} {thing}, {b} {other} and {c} pens. How many things do I have altogether?",
    "What percentage is {a} of {b}?",
    "{name} is {a} years old and her brother is {b} years older. How old is he?",
    "I am {a} and my sister is twice my age. How old will she be in {b} years?",
    "How many letters are in the word {thing}?",
    "A train travels {a} km per hour for {b} hours. How far does it go?",
)
_ORDER = (
    "Which is {kind}: {list}?",
    "Sort these words alphabetically: {list}",
    "Put the following numbers in ascending order: {list}",
    "Sort the following words alphabetically: List: {list}",
    "Order {list} from smallest to largest",
    "What is the largest number in {list}?",
    "Rank these by length: {list}",
    "Which of {list} comes first in the alphabet?",
    "Arrange in descending order: {list}",
    "find the smallest of {list}",
    "sort [{list}]",
)
_FORM = (
    "Write the date {date} in the form YYYY-MM-DD",
    "Convert {date} to ISO format",
    "Turn this into JSON: {name} is {a} years old and lives in {city}",
    "Return a JSON object with the keys name and age for {name}, {a}",
    'Answer in JSON like {{"name": ..., "city": ...}}: {name} from {city}',
    "Write {list} in upper case",
    "Make a comma separated list of {list}",
    "Rewrite as a bulleted list: {list}",
    "What are the initials of {name} {other_name}?",
    "Format as a markdown table: {name} {a}, {other_name} {b}",
    "Write the name {name} {other_name} as last name, first name",
    "Reply in lowercase only: {list}",
    "Give the CSV line for {name}, {a}, {city}",
)
_READ = (
    "{text} Who sent the {thing}?",
    'Read this: "{text}" How many {thing} were there?',
    "Extract the names of all people from this text: {text}",
    "From the following email, tell me the day: {text}",
    "{text}\n\nWhere did the {thing} go?",
    "Which cities are mentioned here? {text}",
    "Find the receiver in this sentence: {text}",
    "Based on the passage, on which day did it happen?\n{text}",
    "What is the sender's name in: {text}",
    "Pull the quantity out of this order: {text}",
)
_FIND = (
    "{notes}\n\nWhat is the code of the {key}?",
    "Here are my notes:\n{notes}\nTell me the code for the {key}.",
    "Given the list below, which code belongs to the {key}?\n{notes}",
    "{notes}\nLook up the {key}.",
    "Use this document to answer. {notes} Question: the {key} has which code?",
)
_FACTS = (
    "What is the capital of {x}?",
    "Who wrote {x}?",
    "What is the opposite of {x}?",
    "What is the chemical symbol of {x}?",
    "What do you call a young {x}?",
    "What number is the Roman numeral {x}?",
    "What is the square root of {x}?",
    "What is the plural of {x}?",
    "What is {x} made of?",
    "Where does a {x} work?",
    "Which of these is right? {x} is A) {a} B) {b} C) {c} D) {d}",
    "Choose the correct answer. {x}: (A) {a} (B) {b} (C) {c} (D) {d}\nAnswer:",
)
_CODING = (
    "Write a Python function that does this: {doc}",
    "def {signature}:\n    # {doc}\n",
    "Implement {signature} in Python. {doc}",
    "```python\ndef {signature}:\n    pass\n```\nComplete this function: {doc}",
    "How do I write a function in JavaScript to {lower}",
    "Fix the bug in this code:\n```\ndef {signature}:\n    return None\n```",
    "Write a unit test for {signature}",
    "What does this code do?\nfor i in range(10):\n    print({name}(i))",
    "from typing import List\n\n\ndef {signature} -> List[int]:\n"
    '    """ {doc}\n    >>> {name}([1, 2, 3])\n    [1]\n    """\n',
    "Give me a bash one-liner to {lower}",
    "Write an SQL query that selects {name} from table users where id > 5;",
    "Refactor this class so that {name}() is a static method: class A:\n    def {signature}: return self.x",
)
_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def drawn(seed: int, each: int) -> Iterator[Text]:
    """`each` texts of every category, and twice as many of everything else."""
    rng = random.Random(f"phrasings {seed}")
    for category, frames in _FRAMES.items():
        for _ in range(each):
            number = rng.randrange(len(frames) + 2)
            # Two frames of every category are the benchmark's own: with solved examples before it, and alone.
            made = frames[number](rng) if number < len(frames) else _own(category, rng, number - len(frames))
            yield Text(made, category, number)
    for _ in range(2 * each):
        number = rng.randrange(len(OTHER))
        yield Text(OTHER[number].format(x=rng.choice(TOPICS), y=rng.choice(TOPICS)), ELSE, number)


def _own(category: str, rng: random.Random, alone: int) -> str:
    seed, level = rng.randrange(10_000_000), rng.choice(_LEVELS)
    if category == "code":
        prompt = code(1, seed)[0].prompt
        return prompt[prompt.rindex("def ") :] if alone else prompt
    if category == "choice":
        return rng.choice(_facts()).prompt
    draw = _DRAWS[category]
    if alone:
        return draw(rng, level)[0]
    shots = rng.randrange(1, 6)
    return generate.made(category, draw, 1, seed, levels=(level,), shots=shots, max_tokens=1)[0].prompt


@cache
def _facts() -> list[Item]:
    return choice(1000, 0)


_DRAWS = {
    "arithmetic": generate.arithmetic,
    "extraction": generate.extraction,
    "ordering": generate.ordering,
    "formatting": generate.formatting,
    "retrieval": generate.retrieval,
}


def _number(form: str) -> Say:
    def say(rng: random.Random) -> str:
        sign = rng.choice("+-*/")
        most = rng.choice((10, 100, 1000))
        a, b, c = (rng.randint(2, most) for _ in range(3))
        thing, other = rng.sample(generate.THINGS, 2)
        name = rng.choice(generate.NAMES)
        return form.format(a=a, b=b, c=c, sign=sign, word=_WORDS[sign], name=name, thing=thing, other=other)

    return say


def _order(form: str) -> Say:
    def say(rng: random.Random) -> str:
        count = rng.randint(2, 8)
        numbers = "word" not in form and rng.random() < 0.6
        pool = [str(n) for n in rng.sample(range(1000), count)] if numbers else rng.sample(generate.WORDS, count)
        joint = rng.choice((", ", " ", " and ")) if count == 2 else rng.choice((", ", " "))
        kind = rng.choice(("larger", "smaller", "greater", "bigger", "the largest"))
        return form.format(list=joint.join(pool), kind=kind)

    return say


def _form(form: str) -> Say:
    def say(rng: random.Random) -> str:
        name, other = rng.sample(generate.NAMES, 2)
        date = f"{rng.randint(1, 28)} {rng.choice(generate.MONTHS)} {rng.randint(1950, 2030)}"
        words = ", ".join(rng.sample(generate.WORDS, rng.randint(2, 4)))
        a, b, city = rng.randint(18, 80), rng.randint(18, 80), rng.choice(generate.CITIES)
        return form.format(name=name, other_name=other, date=date, list=words, a=a, b=b, city=city)

    return say


def _read(form: str) -> Say:
    def say(rng: random.Random) -> str:
        asked, _ = generate.extraction(rng, rng.choice((0, 1)))
        text = asked.partition("Text: ")[2].rpartition("\n")[0]
        return form.format(text=text, thing=rng.choice(generate.THINGS))

    return say


def _find(form: str) -> Say:
    def say(rng: random.Random) -> str:
        asked, _ = generate.retrieval(rng, rng.choice((0, 1)))
        notes, _, rest = asked.partition("\nQuestion: ")
        key = rest.partition("code of the ")[2].partition("?")[0]
        return form.format(notes=notes, key=key)

    return say


def _fact(form: str) -> Say:
    def say(rng: random.Random) -> str:
        item = rng.choice(_facts())
        words = [word for word in item.prompt.split() if word.lower() not in _FRAME_WORDS]
        a, b, c, d = (ending.strip() for ending in item.choices)
        return form.format(x=" ".join(words[-2:]) or item.prompt, a=a, b=b, c=c, d=d)

    return say


_FRAME_WORDS = frozenset(
    (
        *("the", "of", "is", "a", "an", "called", "main", "thing", "that", "made", "usually", "works", "in"),
        *("one", "many", "chemical", "symbol"),
    )
)


def _coding(form: str) -> Say:
    def say(rng: random.Random) -> str:
        item = code(1, 0, [rng.randrange(KNOWN)])[0]
        signature, _, rest = item.prompt[item.prompt.rindex("def ") + 4 :].partition(":\n")
        sentence = rest.partition('"""')[2].partition('"""')[0]
        name = signature.partition("(")[0]
        return form.format(doc=sentence, signature=signature, lower=sentence[:1].lower() + sentence[1:], name=name)

    return say


_FRAMES: dict[str, list[Say]] = {
    "arithmetic": [_number(form) for form in _NUMBERS],
    "ordering": [_order(form) for form in _ORDER],
    "formatting": [_form(form) for form in _FORM],
    "extraction": [_read(form) for form in _READ],
    "retrieval": [_find(form) for form in _FIND],
    "choice": [_fact(form) for form in _FACTS],
    "code": [_coding(form) for form in _CODING],
}
CATEGORIES = (*_FRAMES, ELSE)
