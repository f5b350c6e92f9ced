"""The answer cache: false hits among look-alikes, hits among paraphrases, vectors alone beside it; what a miss costs.

python -m tests.perf.answer_cache [--answers 2000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from localai.answer_cache import RULES
from localai.answer_file import AnswerFile, Kept
from localai.same_question import canonical, category
from memory_store.embed import StaticEmbedder
from tests import held_out_pairs
from tests.question_pairs import DIFFERENT, SAME

TEMPLATES = ("What is the {} of number {}?", "How do I {} item {}?", "Who wrote the {} book {}?", "Why is {} like {}?")
WORDS = ("colour", "weight", "repair", "history", "boil", "green", "price", "origin", "lift", "name")


def judged(embedder: StaticEmbedder, left: str, right: str) -> tuple[bool, float]:
    """Whether the cache would answer `right` by `left`, and the cosine of both."""
    one, other = embedder.embed([left, right])
    kind, cosine = category(right), float(one @ other)
    cached = "never" not in (kind, category(left))
    return cached and canonical(left) == canonical(right) and cosine >= RULES[kind].likeness, cosine


def miss_ms(embedder: StaticEmbedder, answers: int, folder: Path) -> list[float]:
    """Milliseconds of a whole look-up that finds nothing: kind, form, vector and comparison (p50, p95, most)."""
    file = AnswerFile(folder / "answers.db", embedder.digest)
    for number in range(answers):
        text = TEMPLATES[number % 4].format(WORDS[number % 10], number)
        vector = embedder.embed([text])[0]
        kept = Kept(context=b"c", category="fact", form=text.encode(), vector=vector, text="x" * 200, made=time.time())
        file._remember(number + 1, kept)
    took = []
    for number in range(300):
        text = TEMPLATES[number % 4].format(WORDS[(number + 3) % 10], f"{number} of another kind")
        begun = time.perf_counter()
        category(text)
        found = file.nearest(b"c", embedder.embed([text])[0], 0.6, canonical(text).encode(), 0.0)
        took.append(1000 * (time.perf_counter() - begun))
        assert found is None
    file.close()
    return [round(float(value), 3) for value in np.quantile(took[1:], (0.5, 0.95, 1.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000)
    options = parser.parse_args()
    embedder = StaticEmbedder()
    different = [judged(embedder, *pair) for pairs in DIFFERENT.values() for pair in pairs]
    same = [judged(embedder, *pair) for pair in SAME]
    result: dict[str, object] = {
        "look-alikes": len(different),
        "false hits": sum(hit for hit, _ in different),
        "paraphrases": len(same),
        "hits": sum(hit for hit, _ in same),
    }
    other = [
        judged(embedder, *pair)[0]
        for left, right in held_out_pairs.DIFFERENT
        for pair in ((left, right), (right, left))
    ]
    result["look-alikes held out, both ways: pairs, false hits"] = [len(other), sum(other)]
    found = [judged(embedder, *pair)[0] for pair in held_out_pairs.SAME]
    result["paraphrases held out: pairs, hits"] = [len(found), sum(found)]
    for likeness in (0.8, 0.9, 0.95):
        false = sum(cosine >= likeness for _, cosine in different) / len(different)
        true = sum(cosine >= likeness for _, cosine in same) / len(same)
        result[f"vectors alone at {likeness}: false, true"] = [round(false, 3), round(true, 3)]
    with tempfile.TemporaryDirectory() as folder:
        result[f"miss ms among {options.answers} (p50, p95, most)"] = miss_ms(embedder, options.answers, Path(folder))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
