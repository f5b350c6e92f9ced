"""The checkable demands of IFEval ("Instruction-Following Evaluation for Large Language Models", Zhou et al., 2023).

An answer and published demand names with their arguments in, whether all are met out (the strict reading). Demands that
need a language detector or a sentence splitter are not known here: `KNOWN` tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from localai.bench.tasks import Instruction

Arguments = dict[str, Any]
Check = Callable[[str, Arguments], bool]


def all_met(text: str, demands: Sequence[Instruction]) -> bool:
    """Whether `text` says something and meets every demand; each must be in `KNOWN`."""
    return bool(text.strip()) and all(KNOWN[demand.name](text, demand.arguments) for demand in demands)


def _compared(count: int, wanted: int, relation: str) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _keywords(text: str, a: Arguments) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in a["keywords"])


def _keyword_frequency(text: str, a: Arguments) -> bool:
    return _compared(len(re.findall(a["keyword"], text, re.IGNORECASE)), a["frequency"], a["relation"])


def _forbidden(text: str, a: Arguments) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in a["forbidden_words"])


def _letters(text: str, a: Arguments) -> bool:
    return _compared(text.lower().count(a["letter"].lower()), a["let_frequency"], a["let_relation"])


def _words(text: str, a: Arguments) -> bool:
    return _compared(len(re.findall(r"\w+", text)), a["num_words"], a["relation"])


def _paragraphs(text: str, a: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = [part for place, part in enumerate(parts) if part.strip() or 0 < place < len(parts) - 1]
    return bool(all(part.strip() for part in inner) and len(inner) == a["num_paragraphs"])


def _first_word(text: str, a: Arguments) -> bool:
    parts = text.split("\n\n")
    nth, filled = a["nth_paragraph"], [part for part in parts if part.strip()]
    if len(filled) != a["num_paragraphs"] or nth > len(parts) or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].strip().split()[0].lstrip("'").lstrip('"')
    return bool(re.split(r"[.,?!'\"]", word)[0].lower() == a["first_word"].lower())


def _placeholders(text: str, a: Arguments) -> bool:
    return bool(len(re.findall(r"\[.*?\]", text)) >= a["num_placeholders"])


def _postscript(text: str, a: Arguments) -> bool:
    marker = a["postscript_marker"]
    written = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return re.search(rf"\s*{written}.*$", text.lower(), re.MULTILINE) is not None


def _bullets(text: str, a: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return bool(len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == a["num_bullets"])


def _constrained(text: str, a: Arguments) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _highlights(text: str, a: Arguments) -> bool:
    found = re.findall(r"\*[^\n\*]*\*", text) + re.findall(r"\*\*[^\n\*]*\*\*", text)
    return bool(sum(bool(part.strip("*").strip()) for part in found) >= a["num_highlights"])


def _sections(text: str, a: Arguments) -> bool:
    return bool(len(re.split(rf"\s?{a['section_spliter']}\s?\d+\s?", text)) - 1 >= a["num_sections"])


def _is_json(text: str, a: Arguments) -> bool:
    bare = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(bare)
    except ValueError:
        return False
    return True


def _title(text: str, a: Arguments) -> bool:
    return any(part.strip("<>").strip() for part in re.findall(r"<<[^\n]+>>", text))


def _two(text: str, a: Arguments) -> bool:
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    inner_empty = any(not part.strip() for part in parts[1:-1])
    return not inner_empty and len(filled) == 2 and filled[0] != filled[1]


def _repeats(text: str, a: Arguments) -> bool:
    return text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())


def _ends(text: str, a: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())


def _quoted(text: str, a: Arguments) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _capitals(text: str, a: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'-]+", text))
    return _compared(count, a["capital_frequency"], a["capital_relation"])


KNOWN: dict[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda text, a: text.isupper(),
    "change_case:english_lowercase": lambda text, a: text.islower(),
    "punctuation:no_comma": lambda text, a: "," not in text,
}
