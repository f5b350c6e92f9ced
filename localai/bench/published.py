"""Rows of published test sets to Items, one function per format. Pure: reads no files.

Each function takes the rows as the publishers wrote them and raises KeyError, TypeError, ValueError or IndexError for a
row of another shape; `loaders` turns that into words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from localai.bench.instructions import KNOWN
from localai.bench.tasks import Instruction, Item

Rows = Sequence[Any]
Made = tuple[list[Item], tuple[str, ...]]
"""Items, and what was left out."""

_SHOTS = 3
_LETTERS = "ABCDEFGHIJ"
_SHOWN_WORK = re.compile(r"<<[^>]*>>")


def bbh(rows: Rows, name: str) -> Made:
    """BIG-Bench-Hard: `{input, target}`. The first three are shown as examples, and not asked."""
    shots = "".join(f"Q: {row['input']}\nA: {row['target']}\n\n" for row in rows[:_SHOTS])
    items = [
        Item(
            id=f"{name}-{place:04}",
            category=name,
            kind="text",
            scorer="exact",
            prompt=f"{shots}Q: {row['input']}\nA:",
            answers=(_text(row["target"]),),
            max_tokens=96,
        )
        for place, row in enumerate(rows)
        if place >= _SHOTS
    ]
    return items, (f"{name}: the first {_SHOTS} questions serve as examples",)


def gsm8k(rows: Rows, name: str) -> Made:
    """GSM8K: `{question, answer}`, the number behind `####`. The last number of the model's answer counts."""
    shots = "".join(_worked(row) for row in rows[:_SHOTS])
    items = [
        Item(
            id=f"{name}-{place:04}",
            category=name,
            kind="text",
            scorer="last_number",
            prompt=f"{shots}Question: {row['question']}\nAnswer:",
            answers=(row["answer"].split("####")[1].strip(),),
            max_tokens=256,
            stop=("Question:",),
        )
        for place, row in enumerate(rows)
        if place >= _SHOTS
    ]
    return items, (f"{name}: the first {_SHOTS} questions serve as examples",)


def _worked(row: Any) -> str:
    return f"Question: {row['question']}\nAnswer: {_SHOWN_WORK.sub('', row['answer'])}\n\n"


def humaneval(rows: Rows, name: str) -> Made:
    """HumanEval: `{prompt, entry_point, test}`; the code runs in the sandbox."""
    items = [
        Item(
            id=f"{name}-{place:04}",
            category=name,
            kind="text",
            scorer="code",
            prompt=_text(row["prompt"]),
            tests=f"{row['test']}\ncheck({row['entry_point']})\n",
            max_tokens=256,
            stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
        )
        for place, row in enumerate(rows)
    ]
    return items, ()


def ifeval(rows: Rows, name: str) -> Made:
    """IFEval: `{prompt, instruction_id_list, kwargs}`; prompts with a demand that cannot be checked are left out."""
    items = []
    for place, row in enumerate(rows):
        given = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        demands = tuple(Instruction(d, {k: v for k, v in (a or {}).items() if v is not None}) for d, a in given)
        if all(demand.name in KNOWN for demand in demands):
            items.append(
                Item(
                    id=f"{name}-{place:04}",
                    category=name,
                    kind="chat",
                    scorer="instructions",
                    prompt=_text(row["prompt"]),
                    demands=demands,
                    max_tokens=512,
                    stop=(),
                )
            )
    left = len(rows) - len(items)
    return items, (f"{name}: {left} prompts need a language or sentence model and are left out",) if left else ()


def mmlu(rows: Rows, name: str) -> Made:
    """MMLU: CSV rows (question, A, B, C, D, answer), or `{question, choices, answer}` with a number or letter."""
    items = []
    for place, row in enumerate(rows):
        if isinstance(row, dict):
            question, options, answer = row["question"], row["choices"], row["answer"]
        else:
            question, *options, answer = row
        gold = answer if isinstance(answer, int) else _LETTERS.index(answer.strip())
        shown = "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))
        items.append(_choice(name, place, f"{question.strip()}\n{shown}\nAnswer:", _LETTERS[: len(options)], gold))
    return items, ()


def arc(rows: Rows, name: str) -> Made:
    """ARC: `{question: {stem, choices: [{text, label}]}, answerKey}`, or the hub's flat `choices: {text, label}`."""
    items = []
    for place, row in enumerate(rows):
        if isinstance(row["question"], dict):
            stem = row["question"]["stem"]
            options = [(choice["text"], choice["label"]) for choice in row["question"]["choices"]]
        else:
            stem = row["question"]
            options = list(zip(row["choices"]["text"], row["choices"]["label"], strict=True))
        gold = [label for _, label in options].index(row["answerKey"])
        items.append(_choice(name, place, f"Question: {stem}\nAnswer:", [text for text, _ in options], gold))
    return items, ()


def _choice(name: str, place: int, prompt: str, endings: Sequence[str], gold: int) -> Item:
    if not 0 <= gold < len(endings) or not all(ending.strip() for ending in endings):
        raise ValueError(f"right ending {gold} of {len(endings)}")
    return Item(
        id=f"{name}-{place:04}",
        category=name,
        kind="choice",
        scorer="choice",
        prompt=prompt,
        choices=tuple(f" {ending}" for ending in endings),
        gold=gold,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


FORMATS: dict[str, Callable[[Rows, str], Made]] = {
    "bbh": bbh,
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "ifeval": ifeval,
    "mmlu": mmlu,
    "arc": arc,
}
