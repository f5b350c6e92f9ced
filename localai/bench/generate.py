"""The project's own questions: a seed and a level in, Items out. Nobody's licence, and in nobody's training data.

Every category shows solved examples of its own kind first, always the same ones, so that a model without instruction
tuning can follow. `level` 0 is the easiest.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from localai.bench.tasks import Item

NAMES: tuple[str, ...] = (
    "Ann",
    "Bob",
    "Carl",
    "Dora",
    "Emma",
    "Fred",
    "Gina",
    "Hugo",
    "Ivy",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
)
CITIES = ("Rome", "Paris", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin", "Madrid", "Dublin")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = ("apples", "books", "chairs", "lamps", "pens", "plates", "shirts", "tables", "tickets", "boxes")
WORDS: tuple[str, ...] = (
    "apple",
    "bread",
    "cloud",
    "dog",
    "egg",
    "fish",
    "grape",
    "house",
    "ice",
    "juice",
    "king",
    "lemon",
    "moon",
)
WORDS += ("nest", "orange", "paper", "queen", "river", "stone", "tree", "uncle", "voice", "water", "yard", "zebra")
MONTHS: tuple[str, ...] = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
)
MONTHS += ("November", "December")

Draw = Callable[[random.Random, int], tuple[str, str]]
"""One question and its answer."""


def arithmetic(rng: random.Random, level: int) -> tuple[str, str]:
    """Sums and differences whose numbers grow with the level; products from level 2 on."""
    most = (10, 20, 50, 100)[min(level, 3)]
    a, b = rng.randint(2, most), rng.randint(2, most)
    sign = rng.choice("+-" if level < 2 else "+-*")
    if sign == "-":
        a, b = max(a, b), min(a, b)
    if sign == "*":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return f"{a} {sign} {b} =", str(value)


def extraction(rng: random.Random, level: int) -> tuple[str, str]:
    """One field of a sentence that names several; more people and places with the level."""
    giver, taker, other = rng.sample(NAMES, 3)
    origin, goal = rng.sample(CITIES, 2)
    count, thing, day = rng.randint(2, 99), rng.choice(THINGS), rng.choice(DAYS)
    text = f"On {day}, {giver} from {origin} sent {count} {thing} to {taker} in {goal}"
    text += f", and told {other} about it." if level else "."
    fields = {"Sender": giver, "Receiver": taker, "Number": str(count), "Day": day, "Goods": thing, "To": goal}
    if level:
        fields |= {"From": origin, "Told": other}
    asked = rng.choice(sorted(fields))
    return f"Text: {text}\n{asked}:", fields[asked]


def ordering(rng: random.Random, level: int) -> tuple[str, str]:
    """Numbers or words into order: of two the greater or lesser at level 0; then the extremes, or all, of more."""
    count = 2 + min(level, 4)
    if level == 0:
        a, b = rng.sample(range(1, 100), 2)
        kind = rng.choice(("smaller", "larger"))
        return f"{kind} of {a} and {b}:", str(min(a, b) if kind == "smaller" else max(a, b))
    if rng.random() < 0.5:
        values = rng.sample(range(1, 20 * (level + 1)), count)
        kind = rng.choice(("smallest", "largest", "sorted"))
        answer = {"smallest": str(min(values)), "largest": str(max(values))}.get(kind)
        shown = ", ".join(map(str, values))
        return f"{kind} of {shown}:", answer or ", ".join(map(str, sorted(values)))
    words = rng.sample(WORDS, count)
    kind = rng.choice(("first", "last", "sorted"))
    ranked = sorted(words)
    answer = {"first": ranked[0], "last": ranked[-1]}.get(kind)
    return f"{kind} of {', '.join(words)}:", answer or ", ".join(ranked)


def formatting(rng: random.Random, level: int) -> tuple[str, str]:
    """The same facts in another form: dates, lists, JSON."""
    kind = rng.choice(("date", "list", "upper") if level == 0 else ("date", "json", "reverse", "initials"))
    first, second = rng.sample(NAMES, 2)
    if kind == "date":
        month = rng.randint(1, 12)
        day, year = rng.randint(1, 28), rng.randint(1990, 2029)
        return f"date: {day} {MONTHS[month - 1]} {year} ->", f"{year}-{month:02}-{day:02}"
    if kind == "list":
        words = rng.sample(WORDS, 3)
        return f"list: {words[0]}, {words[1]} and {words[2]} ->", "[" + "; ".join(words) + "]"
    if kind == "upper":
        word = rng.choice(WORDS)
        return f"upper: {word} ->", word.upper()
    if kind == "json":
        age = rng.randint(18, 80)
        return f"json: {first} is {age} ->", json.dumps({"name": first, "age": age})
    if kind == "initials":
        return f"initials: {first} {second} ->", f"{first[0]}.{second[0]}."
    return f"reverse: {first} {second} ->", f"{second}, {first}"


def retrieval(rng: random.Random, level: int) -> tuple[str, str]:
    """One of many notes, by its key: 8 notes at level 0, twice as many with every level more."""
    count = 8 * 2**level
    keys = [f"{color} {thing}" for color in COLORS for thing in KEEPERS]
    notes = {key: str(rng.randint(100, 999)) for key in rng.sample(keys, count)}
    asked = rng.choice(sorted(notes))
    lines = "\n".join(f"The code of the {key} is {code}." for key, code in notes.items())
    return f"{lines}\nQuestion: What is the code of the {asked}?\nAnswer: The code of the {asked} is", notes[asked]


COLORS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "gold", "silver", "orange", "purple")
KEEPERS = ("box", "door", "safe", "car", "bag", "gate", "desk", "room", "case", "bike", "shed", "boat")


def made(
    category: str, draw: Draw, count: int, seed: int, *, levels: Sequence[int], shots: int, max_tokens: int
) -> list[Item]:
    """`count` different questions of `draw`, their levels taking turns, behind `shots` solved ones."""
    shown: dict[str, str] = {}
    examples = random.Random(f"{category} examples")
    while len(shown) < shots:
        question, answer = draw(examples, levels[len(shown) % len(levels)])
        shown.setdefault(question, answer)
    head = "".join(f"{question} {answer}\n\n" for question, answer in shown.items())
    rng = random.Random(f"{category} {seed}")
    items: list[Item] = []
    asked = set(shown)
    while len(items) < count:
        question, answer = draw(rng, levels[len(items) % len(levels)])
        if question not in asked:
            asked.add(question)
            items.append(
                Item(
                    id=f"{category}-{len(items):04}",
                    category=category,
                    kind="text",
                    scorer="json" if answer.startswith("{") else "exact",
                    prompt=f"{head}{question}",
                    answers=(answer,),
                    max_tokens=max_tokens,
                )
            )
    return items
