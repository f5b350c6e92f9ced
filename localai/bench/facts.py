"""Multiple choice by likelihood: everyday facts as sentences, and which of four endings a model finds likeliest."""

from __future__ import annotations

import random
from collections.abc import Collection

from localai.bench.tasks import Item

_TABLES: dict[str, tuple[str, str]] = {
    "capital": (
        "The capital of {} is",
        "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Russia Moscow, Egypt Cairo,"
        "Greece Athens, Portugal Lisbon, Austria Vienna, Norway Oslo, Sweden Stockholm, Finland Helsinki, Peru Lima,"
        "Cuba Havana, Kenya Nairobi, China Beijing, Poland Warsaw, Hungary Budapest, Ireland Dublin, Canada Ottawa,"
        "Australia Canberra, Turkey Ankara, Thailand Bangkok, Chile Santiago, Morocco Rabat, Iran Tehran, Iraq Baghdad",
    ),
    "opposite": (
        "The opposite of {} is",
        "hot cold, big small, up down, early late, open closed, rich poor, fast slow, happy sad, strong weak, wet dry,"
        "light dark, full empty, young old, near far, loud quiet, sharp blunt, thick thin, brave cowardly, victory"
        " defeat, ancient modern, buy sell, begin end, love hate, north south, deep shallow, rough smooth",
    ),
    "young": (
        "A young {} is called a",
        "dog puppy, cat kitten, cow calf, sheep lamb, horse foal, pig piglet, bear cub, deer fawn, goose gosling,"
        "duck duckling, hen chick, goat kid, frog tadpole, butterfly caterpillar, kangaroo joey, swan cygnet",
    ),
    "made": (
        "The main thing that {} is made of is",
        "bread flour, cheese milk, wine grapes, paper wood, glass sand, wool hair, butter cream, cider apples,"
        "chocolate cocoa, steel iron, omelette eggs, ketchup tomatoes, tofu soybeans, honey nectar, brick clay",
    ),
    "place": (
        "A {} usually works in a",
        "teacher school, doctor hospital, chef kitchen, farmer field, judge court, librarian library, miner mine,"
        "priest church, actor theatre, sailor ship, pilot cockpit, baker bakery, soldier barracks, chemist laboratory,"
        "cashier shop, mechanic garage, professor university, banker bank, painter studio, waiter restaurant",
    ),
    "symbol": (
        "The chemical symbol of {} is",
        "gold Au, silver Ag, iron Fe, lead Pb, tin Sn, copper Cu, sodium Na, potassium K, mercury Hg, tungsten W,"
        "helium He, neon Ne, zinc Zn, carbon C, oxygen O, nitrogen N, calcium Ca, nickel Ni, cobalt Co, arsenic As",
    ),
    "roman": (
        "The Roman numeral {} means",
        "IV 4, VI 6, IX 9, XI 11, XIV 14, XVI 16, XIX 19, XL 40, XLV 45, LX 60, XC 90, CX 110, CD 400, DC 600, CM 900,"
        "MC 1100, XXIV 24, LIV 54, XLI 41, LXIX 69",
    ),
    "root": (
        "The square root of {} is",
        "49 7, 64 8, 81 9, 121 11, 144 12, 169 13, 196 14, 225 15, 256 16, 289 17, 324 18, 361 19, 400 20, 625 25",
    ),
    "author": (
        "The author of {} is",
        "Hamlet Shakespeare, Faust Goethe, Emma Austen, Ulysses Joyce, Dracula Stoker, Frankenstein Shelley,"
        "Candide Voltaire, Middlemarch Eliot, Lolita Nabokov, Walden Thoreau, Leviathan Hobbes, Kim Kipling,"
        "Ivanhoe Scott, Rebecca Maurier, Beloved Morrison, Dune Herbert, It King, Nostromo Conrad, Iliad Homer",
    ),
    "plural": (
        "One {}, many",
        "mouse mice, child children, foot feet, tooth teeth, goose geese, man men, leaf leaves, knife knives,"
        "wolf wolves, baby babies, box boxes, person people, woman women, ox oxen, life lives, half halves",
    ),
}


LESS_KNOWN = ("young", "roman", "root", "author")
"""Tables of which a small model knows about half."""


def choice(count: int, seed: int, tables: Collection[str] = ()) -> list[Item]:
    """`count` different facts with four endings each, the wrong ones from the same table; at most as many as known.

    `tables` limits which facts are asked.
    """
    rng = random.Random(f"choice {seed}")
    asked = {name: text for name, (_, text) in _TABLES.items() if not tables or name in tables}
    facts = [(name, *pair) for name, text in asked.items() for pair in _pairs(text)]
    rng.shuffle(facts)
    items = []
    for number, (name, subject, right) in enumerate(facts[:count]):
        template, text = _TABLES[name]
        wrong = rng.sample(sorted({other for _, other in _pairs(text)} - {right}), 3)
        gold = rng.randrange(4)
        items.append(
            Item(
                id=f"choice-{number:04}",
                category="choice",
                kind="choice",
                scorer="choice",
                prompt=template.format(subject),
                choices=tuple(f" {ending}" for ending in (*wrong[:gold], right, *wrong[gold:])),
                gold=gold,
            )
        )
    return items


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for entry in text.split(","):
        first, last = entry.split()
        found.append((first, last))
    return found
