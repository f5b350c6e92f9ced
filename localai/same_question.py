"""Do two questions ask the same? Wording may differ, but numbers, names, negations, order and every telling word not.

A question enters, its canonical form and its category leave; equal forms ask the same. Knows nothing of meaning beyond
these rules: likeness of vectors is judged elsewhere, and alone takes "with" for "without".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

Category = Literal["fact", "howto", "code", "text", "never"]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", text))


_CODE = re.compile(r"`[^`]+`")
# Quotation marks, and the marks that end a sentence, tell nothing; whatever else is written may.
_TOKEN = re.compile(r"\0\d+\0|\.?\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)?|\.(?=\w)|(?<=\d)!|[^\w\s\"'“”‘’«».?!…]|_")
_ENGLISH = _words(
    """what what's who who's how how's why where where's when which is are was were the do does did can could should
    would will explain define list name give tell write please translate convert summarize calculate compute sort find
    show compare describe"""
)
_CONTRACTIONS = (
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\b(?:can't|cannot)\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(what|who|how|why|where|when|that|it|there|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\bi'd\b"), "i would"),
)
_STARTS = "what|who|how|why|where|when|which|is|are|was|were|do|does|did|tell|explain|define|list|name|give|can|could"
_POLITE = re.compile(
    rf"^(?:hi|hello|hey|ok|okay|so|please)(?:\s*[,!.]\s*|\s+(?=(?:{_STARTS})\b))"
    r"|^(?:can|could|would|will) you (?:please |kindly )?(?=(?:tell|explain|list|name)\b)"
    r"|^(?:do you know|i (?:would like|want|need) to know)[\s,:]+(?=(?:what|who|how|why|where|when|which)\b)"
    r"|\s*[,.!?]+\s*(?:please|thanks|thank you)[\s.!?]*$"
)
_FRAMES = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"^tell me (?=(?:the|what|who|how|why|where|when|which)\b)", ""),
        (r"^explain (?:to me )?(?!.*[:,])", ""),
        (r"^(?:define|calculate|compute|work out) ", ""),
        (r"^give (?:me )?an? (?=(?:synonym|antonym|definition)\b)", ""),
        (r"^give (?:me )?an? example ", "give example "),
        (r"^what is the (?:best |right )?way to ", "how to "),
        (r"^how (?:do|does|can|could) (?:i|one|we) ", "how to "),
        (r"^how long (?:does it take|do (?:i|one|we) need|do (?:i|one|we)) (?:to )?", "how long to "),
        (r"^what is the reason (?:that|why|for) ", "why "),
        (r"^where (?:can|do) (?:i|one|we) find ", "where is "),
        (r"^(where .*?) (?:located|situated)$", r"\1"),
        (r"^how far away ", "how far "),
        (r"^how (?:tall|high) (?:is|are) ", "height of "),
        (r"^how old (?:is|are) ", "age of "),
        (r"^how fast (?:is|are) ", "speed of "),
        (r"^how heavy (?:is|are) ", "weight of "),
        (r"^how deep (?:is|are) ", "depth of "),
        (r"^who (?:is|was) the (?:author|writer) of ", "who wrote "),
        (r"^who (?:is|was) the painter of ", "who painted "),
        (r"^who (?:is|was) the inventor of ", "who invented "),
        (r"^who (?:is|was) the founder of ", "who founded "),
        (r"^(?:what|which) (?:is|are) ", ""),
        (r"^what (?:do|does) (.+) mean$", r"\1"),
        (r"^what (.+) (?:is|are)$", r"\1"),
        (r"^which ", "what "),
    )
)
_IS, _DO = _words("is are am"), _words("do does")
_YES_NO = _IS | _DO | _words("did was were has have had can could should would will may must")
_ARTICLES = _words("the a an of")
_SPELLINGS = {
    "percent": "%",
    "has": "have",
    "kilometre": "kilometer",
    "litre": "liter",
    "metre": "meter",
    "grey": "gray",
    "centre": "center",
    "theatre": "theater",
    "summarise": "summarize",
    "organise": "organize",
}
_SPELLINGS |= {
    word: word.replace("our", "or") for word in _words("colour flavour behaviour neighbour favourite honour")
}
_SPELLINGS |= {
    word: str(number)
    for number, word in enumerate(re.findall(r"\w+", "two three four five six seven eight nine ten eleven twelve"), 2)
}
# Words that mean something else in the plural, or have none.
_NO_PLURAL = _words(
    """customs goods arms means news glasses species series physics mathematics maths politics economics statistics
    spirits papers works manners minutes airs forces waters damages headquarters has was this his its yes always perhaps
    besides sometimes towards minus plus less across"""
)
# Words that mean something else with a capital.
_CAPITONYMS = _words(
    """polish turkey china may march august mercury apple amazon windows rust go swift shell oracle jersey lent python
    java ruby reading nice job bill mark rose will hope grace earth god"""
)
_NEVER = re.compile(
    r"\b(?:now|today|tonight|tomorrow|yesterday|current|currently|latest|recent|recently|news|weather|forecast|"
    r"(?:this|next|last) (?:week|month|year|morning|evening|night|time)|what time|the time|stock price|"
    r"random|randomly|surprise|again|another|different one|i|me|my|mine|myself|we|us|our|ours|you|your|yours)\b"
)
_ABOUT_CODE = re.compile(r"[{}<>;=]|\b(?:def|class|import|return|function|regex|sql|python|javascript|bash|git|code)\b")


def category(text: str) -> Category:
    """What kind of question it is. "never": its answer depends on the moment or on who asks, or is to vary."""
    form = _framed(_plain(text))
    if _NEVER.search(form):
        return "never"
    if _CODE.search(text) or _ABOUT_CODE.search(text.casefold()):
        return "code"
    if form.startswith("how to "):
        return "howto"
    return "text" if re.match(r"(?:write|translate|summari[sz]e|rewrite|compose|invent|plan)\b", form) else "fact"


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Equal for two questions that differ in politeness, frame, articles, regular plurals and spelling alone."""
    spans: list[str] = []

    def hide(match: re.Match[str]) -> str:
        spans.append(match[0])
        return f"\0{len(spans) - 1}\0"

    hidden = _CODE.sub(hide, unicodedata.normalize("NFC", text).replace("\0", " "))
    english = _ENGLISH & set(re.findall(r"[a-z']+", hidden.casefold().replace("’", "'")))
    if "```" in text or not english:
        return "as said: " + " ".join(text.split()).strip(" ?.!¿¡？。")
    plain = _plain(hidden)
    framed = _framed(plain)
    first, _, _ = framed.partition(" ")
    asks = first if plain == framed and first in _YES_NO else ""
    kept = list(_tokens(framed.removeprefix(asks).strip() if asks else framed, _cases(hidden), first))
    asks = "is? " if asks in _IS else "do? " if asks in _DO else asks and f"{asks}? "
    shown = asks + " ".join(kept)
    return re.sub("\0(\\d+)\0", lambda match: spans[int(match[1])], shown)


def _tokens(framed: str, cased: dict[str, set[str]], first: str) -> list[str]:
    found = _TOKEN.findall(framed)
    telling = [token for token in found if token not in _ARTICLES | _IS | _DO]
    # "What is the matter?" is not about matter.
    dropped = _ARTICLES if len(telling) > 1 else _ARTICLES - {"the"}
    # "Which bird sings" and "what do birds sing" differ by these alone.
    dropped = dropped if first in ("what", "who", "whom", "whose") else dropped | _IS | _DO
    kept: list[str] = []
    for token in found:
        if token in dropped:
            continue
        token = "is" if token in _IS else "do" if token in _DO else token
        kept.append(_folded(token, kept[-1] if kept else "", cased))
    return kept


def _cases(text: str) -> dict[str, set[str]]:
    """How each word was written, by its lower case; the first one as it would be within a sentence."""
    found: dict[str, set[str]] = {}
    for place, word in enumerate(_TOKEN.findall(text.replace("’", "'"))):
        within = word if place or word.isupper() else word.casefold()
        found.setdefault(word.casefold(), set()).add(within)
    return found


def _plain(text: str) -> str:
    """Lower case, contractions spelt out, hyphens between words and politeness gone."""
    plain = " ".join(unicodedata.normalize("NFC", text).replace("’", "'").casefold().split())
    for pattern, form in _CONTRACTIONS:
        plain = pattern.sub(form, plain)
    plain = re.sub(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})", " ", plain)
    before = ""
    while before != plain:
        before = plain
        plain = re.sub(r"(?<!\d)[!?.:;,\s]+$|(?<=\d)[?.:;,\s]+$", "", _POLITE.sub("", plain, count=1)).strip()
    return plain


def _framed(plain: str) -> str:
    before = ""
    while before != plain:
        before = plain
        for pattern, form in _FRAMES:
            plain = pattern.sub(form, plain, count=1)
    return plain


def _folded(token: str, before: str, cased: dict[str, set[str]]) -> str:
    if token[-1].isdigit():
        return token.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", token) else token
    written = cased.get(token, {token})
    # mg and Mg are units; US and us, Polish and polish are words of their own.
    exact = (len(token) <= 3 and before[:1].isdigit()) or token in _CAPITONYMS
    if exact or any(len(word) > 1 and word.isupper() for word in written):
        return "/".join(sorted(written))
    token = _SPELLINGS.get(token, token)
    # A name ends as it ends: Adams is nobody called Adam.
    named = any(word[0].isupper() for word in written)
    return token if named else _singular(token)


def _singular(word: str) -> str:
    if len(word) < 4 or word in _NO_PLURAL or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    singular = word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]
    return _SPELLINGS.get(singular, singular)
