"""Documents whose paragraphs hold several invented facts, and questions with one number each as the key.

Written before any code that chooses among sentences: sets named `tuned` were looked at for it, the others were not.
A set enters by name and seed; the same documents and questions leave every time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from localai.bench.generate import NAMES
from localai.bench.memory_size import facts

TOWNS = (
    "Abrik",
    "Bondal",
    "Corsund",
    "Drevik",
    "Elmund",
    "Farholt",
    "Gransby",
    "Hestvik",
    "Ingsund",
    "Jolmark",
    "Kelvar",
    "Lomund",
    "Marnes",
    "Norvik",
    "Ostrup",
    "Pelmund",
    "Quistad",
    "Rendal",
    "Solvik",
    "Tarnby",
    "Ulmark",
    "Vestrup",
    "Wendal",
    "Ysund",
    "Zelvik",
    "Arnholt",
    "Brekby",
    "Colmark",
    "Dalsund",
    "Egrup",
)
SHIPS = (
    "Albatross",
    "Bittern",
    "Cormorant",
    "Dunlin",
    "Egret",
    "Fulmar",
    "Gannet",
    "Heron",
    "Ibis",
    "Jackdaw",
    "Kestrel",
    "Lapwing",
    "Merganser",
    "Nightjar",
    "Osprey",
    "Petrel",
    "Quail",
    "Redshank",
    "Skua",
    "Tern",
)
SURNAMES = ("Hask", "Velde", "Oster", "Brandt", "Lund")
FACTS = 10
"""Look-alike facts of a paragraph."""
LONGEST = 1200


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the number that answers it, and the document of the set that says so."""

    question: str
    key: int
    document: int


@dataclass(frozen=True, slots=True)
class Set:
    documents: tuple[str, ...]
    asked: tuple[Asked, ...]


def _facts(joined: str, each: int, before: str = "") -> Callable[[int, int], Set]:
    """Facts of `localai bench --memory`, `each` to a document; one of each document is asked for, every place in turn.

    A document has no more than one chunk holds, so the last facts of some are left out of it.
    """

    ways = (
        "What is the number of the {sort} {color} {thing} of {name} in {city}? Answer with the number alone.",
        "{name} in {city} has a {sort} {color} {thing}. Which number does it have? Only the number, please.",
    )

    def made(count: int, seed: int) -> Set:
        known = facts(count * each, seed, "")
        groups = [known[start : start + each] for start in range(0, len(known), each)]
        documents = [before + joined.join(fact.text for fact in group) for group in groups]
        asked = []
        for number, group in enumerate(groups):
            fact = group[number % each]
            asked.append(Asked(ways[number // each % 2].format(**fact.about), fact.number, number))
        assert max(map(len, documents)) <= LONGEST
        return Set(tuple(documents), tuple(asked))

    return made


def _places(count: int, seed: int) -> Set:
    """Four lighthouses to a paragraph, each told of in three sentences, of which only the first names it."""
    rng = random.Random(f"places {seed}")
    towns = rng.sample(TOWNS, len(TOWNS))
    ways = (
        ("How high is the lighthouse of {town}?", "height"),
        ("What does a ticket for the lighthouse of {town} cost?", "price"),
        ("In which year was the lighthouse of {town} built?", "year"),
        ("How much must visitors pay at the lighthouse in {town}?", "price"),
    )
    texts, told = [], []
    for town in towns:
        one = {"town": town, "year": rng.randint(1701, 1950), "name": rng.choice(NAMES)}
        one |= {"height": rng.randint(21, 89), "price": rng.randint(101, 999)}
        texts.append(
            "The lighthouse of {town} was built by {name} in {year}. It is {height} metres high. "
            "A ticket costs {price} crowns.".format(**one)
        )
        told.append(one)
    documents = [" ".join(texts[start : start + 4]) for start in range(0, len(texts), 4)]
    asked = []
    for number in range(count):
        way, field = ways[number // len(told) % len(ways)]
        one = told[number % len(told)]
        asked.append(Asked(way.format(**one), int(one[field]), number % len(told) // 4))  # type: ignore[call-overload]
    return Set(tuple(documents), tuple(asked))


def _ships(count: int, seed: int) -> Set:
    """Five ships to a paragraph, two sentences each; some are asked for in words that the text has not."""
    rng = random.Random(f"ships {seed}")
    ways = (
        ("How many passengers can travel on the {ship}?", "passengers"),
        ("How large is the crew of the {ship}?", "crew"),
        ("How many miles is it to the home port of the {ship}?", "miles"),
        ("How many people may the {ship} take along?", "passengers"),
    )
    texts, told = [], []
    for ship in rng.sample(SHIPS, len(SHIPS)):
        one = {"ship": ship, "town": rng.choice(TOWNS), "name": rng.choice(NAMES)}
        one |= {"passengers": rng.randint(40, 99), "crew": rng.randint(11, 38), "miles": rng.randint(101, 999)}
        texts.append(
            "Captain {name} sails the {ship}, which carries {passengers} passengers and has a crew of {crew}. "
            "Her home port is {town}, {miles} miles away.".format(**one)
        )
        told.append(one)
    documents = [" ".join(texts[start : start + 5]) for start in range(0, len(texts), 5)]
    asked = []
    for number in range(count):
        way, field = ways[number // len(told) % len(ways)]
        one = told[number % len(told)]
        asked.append(Asked(way.format(**one), int(one[field]), number % len(told) // 5))  # type: ignore[call-overload]
    return Set(tuple(documents), tuple(asked))


def _worded(count: int, seed: int) -> Set:
    """Ten people to a paragraph, the same kind of fact in five wordings."""
    rng = random.Random(f"worded {seed}")
    wordings = (
        "{name} of {town} was born in {year}.",
        "Born in {year}, {name} still lives in {town}.",
        "In {town} there is {name}, whose year of birth is {year}.",
        "{year} is the year in which {name} from {town} came into the world.",
        "We met {name} in {town}: the parish register says {year}.",
    )
    pairs = [(f"{name} {surname}", town) for name in NAMES for surname in SURNAMES for town in TOWNS]
    rng.shuffle(pairs)
    people = [{"name": name, "town": town, "year": rng.randint(1801, 1999)} for name, town in pairs[: count * FACTS]]
    documents, asked = [], []
    for number in range(count):
        group = people[number * FACTS : (number + 1) * FACTS]
        documents.append(" ".join(wordings[n % 5].format(**one) for n, one in enumerate(group)))
        one = group[number % FACTS]
        asked.append(Asked("In which year was {name} of {town} born?".format(**one), int(one["year"]), number))  # type: ignore[call-overload]
    return Set(tuple(documents), tuple(asked))


def _prose(count: int, seed: int) -> Set:
    """Plain paragraphs without look-alikes; many answers stand in a sentence that shares few words with the question.

    Always the same, whatever the seed.
    """
    documents, asked = [], []
    for number, block in enumerate(filter(None, (part.strip() for part in _PROSE.split("\n\n")))):
        text, *questions = block.split("\n? ")
        documents.append(" ".join(text.split()))
        asked += [Asked(question, int(key), number) for question, key in _keyed(questions)]
    return Set(tuple(documents), tuple(asked[:count]))


def _keyed(questions: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in questions:
        question, _, key = line.rpartition(" = ")
        yield question, key


SETS: dict[str, Callable[[int, int], Set]] = {
    "one fact": _facts("", 1),
    "paragraph": _facts(" ", FACTS),
    "lines": _facts("\n", FACTS),
    "list": _facts("\n- ", FACTS, "The numbers of things that were lent, as far as they are known:\n\n- "),
    "lighthouses (tuned)": _places,
    "ships": _ships,
    "worded": _worded,
    "prose": _prose,
}

_PROSE = """
The mill of Gransby stands on the left bank of the Lume. It was damaged by the flood of 1887 and stood empty for
a long time. A cooper named Hask bought it in the end and put in new stones. Today it grinds rye for the bakers
of the valley. They fetch about 40 sacks a week.
? When did the flood damage the mill of Gransby? = 1887
? How many sacks of rye do the bakers fetch from the mill of Gransby in a week? = 40

Our tent is of grey canvas and sleeps 6. The poles are in the long bag; there are 14 of them, and two are
spares. Before the first night soak the seams, or they will drip. Ana sewed the floor anew last spring. Her
thread was too thin, so do not pull at it.
? How many people sleep in our grey tent? = 6
? How many poles belong to our tent? = 14

Dr Velde sees patients on weekdays. Her practice is above the pharmacy in Harbour Street; ring twice. Whoever
cannot come should call before eight, otherwise a fee of 35 crowns is due. Prescriptions are ready after two
days. On Fridays the practice closes at 13 o'clock.
? What fee does Dr Velde ask of patients who do not call? = 35
? At what hour does the practice of Dr Velde close on Fridays? = 13

The bees came through the winter well. Of the 9 hives in the orchard only one is weak, and it has a young queen.
We gave them 27 kilos of sugar in autumn. The old extractor leaks. A new one was ordered from Solvik and should
be here by the end of April.
? How much sugar did the bees get in autumn? = 27
? How many hives stand in the orchard? = 9

To reset the boiler, hold the grey button for 12 seconds until the lamp blinks. Then wait. The pump starts by
itself after a minute or so; if it does not, somebody has closed the valve behind the washing machine. Pressure
belongs between the two marks. Mr Oster services it every second year and charges 180 crowns.
? For how many seconds is the grey button of the boiler held? = 12
? What does Mr Oster charge for servicing the boiler? = 180

The choir of Lomund meets in the old school. There are 31 singers, most of them altos. Since the roof was mended
the room is warm even in January. The piano was a gift of the widow Brandt, who had played it for 52 years. It
is tuned every May.
? How many singers are in the choir of Lomund? = 31
? For how many years had the widow Brandt played the piano? = 52

Train 17 to Marnes leaves from the far platform. Buy the ticket in the kiosk, because the machine takes no
notes. Sit on the right: soon after the tunnel the sea comes into view. The ride takes 95 minutes. Bicycles
travel for nothing except on Saturdays.
? Which train goes to Marnes? = 17
? How many minutes does one ride to Marnes? = 95

The vineyard belongs to two sisters. They own 4 hectares of slope above the lake and press everything
themselves. The cellar is cut into the rock and stays at 11 degrees all year. Visitors are welcome in October.
The sisters do not ship their wine; it has to be fetched.
? How warm is the cellar of the vineyard, in degrees? = 11
? How many hectares do the sisters own? = 4

My thesis is on peat. I took 63 cores from the bog at Wendal, each as long as my arm, and dated the pollen in
them. The oldest layer that I reached is 7200 years old. Alder was everywhere then. The supervisor wants one
more table and fewer adjectives.
? How many cores did I take from the bog at Wendal? = 63
? How old is the oldest layer of the bog, in years? = 7200

The parcel for Uncle Bram weighs 8 kilos. It holds the clock, wrapped in both blankets, and his letters. The
counter in Kelvar accepts no more than 20. Ask for a receipt. If nobody opens, the neighbour in number 46 takes
it.
? How many kilos does the parcel for Uncle Bram weigh? = 8
? In which house number does the neighbour take the parcel for Uncle Bram? = 46
"""
