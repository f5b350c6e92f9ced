"""Which type llama.cpp stores keys and values in: the most faithful one with which the wanted context fits.

Settings, sizes, free bytes and what types cost here enter, a type with its context and the reason leave. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.gguf_header import GgufHeader
from localai.budget import MOST_CTX, Sizes, charge, gigabytes, served_context
from localai.errors import OutOfResources
from localai.kv_accuracy import Key, KvCost

AUTO = "auto"
KV_TYPES = ("f16", "q8_0", "q4_0")
"""The most faithful first."""
MEASURE = "localai models plan MODEL --measure"
_BLOCK = 32
"""Values that a quantised type stores together; a head's must fill whole blocks."""
_TRUSTED = frozenset({"q8_0"})
"""Types that are taken until they are shown to cost too much; others have to be shown to cost little."""


@dataclass(frozen=True, slots=True)
class KvTypes:
    """`allowed` types, the most faithful first; `barred` says why the others are not. `costs` are those known here."""

    allowed: tuple[str, ...]
    barred: tuple[str, ...] = ()
    costs: tuple[KvCost, ...] = ()


@dataclass(frozen=True, slots=True)
class KvChoice:
    """`reason` is one sentence where the type is not the most faithful one, or another would serve more; else ''."""

    kv_type: str
    n_ctx: int
    reason: str = ""


def kv_types(setting: str, model: GgufHeader | Sizes, costs: Mapping[Key, KvCost], most_loss: float) -> KvTypes:
    """The types to choose from: the one that is set, or with `auto` those that cost at most `most_loss` percent."""
    if setting != AUTO:
        return KvTypes((setting,))
    if isinstance(model, GgufHeader) and not _whole_blocks(model):
        return KvTypes(KV_TYPES[:1], (f"heads of this model do not fill blocks of {_BLOCK} values",))
    allowed: list[str] = []
    barred: list[str] = []
    for kv_type in KV_TYPES:
        problem = _problem(kv_type, costs.get(("llama.cpp", "", kv_type)), most_loss)
        (barred if problem else allowed).append(problem or kv_type)
    return KvTypes(tuple(allowed), tuple(barred), tuple(costs.values()))


def choose_kv(
    types: KvTypes,
    model: GgufHeader | Sizes,
    asked: int,
    free: int,
    backend: str = "llama.cpp",
    mode: str = "",
    kv_bytes: int | None = None,
) -> KvChoice:
    """The first of `types.allowed` that fits `asked` tokens into `free` bytes.

    Where 0 is asked, the wish is min(trained, 32,768); the type that comes closest to it is taken. Raises
    OutOfResources with the numbers of the last type where none fits.
    """
    trained = (model.trained if isinstance(model, Sizes) else model.n_ctx_train) or MOST_CTX
    wish = asked or min(trained, MOST_CTX)
    best: KvChoice | None = None
    refusal: OutOfResources | None = None
    for kv_type in types.allowed:
        try:
            n_ctx = served_context(model, asked, free, kv_type, backend, mode, kv_bytes)
        except OutOfResources as error:
            refusal = error
            continue
        if best is None or n_ctx > best.n_ctx:
            best = KvChoice(kv_type, n_ctx)
        if n_ctx >= wish:
            break
    if best is None:
        assert refusal is not None
        raise OutOfResources(refusal.message, "; ".join((refusal.hint, *types.barred))) from refusal
    first = types.allowed[0]
    if best.kv_type == first:
        return best
    need = charge(model, wish, first, backend, mode, kv_bytes).total
    why = (
        f"keys and values are stored in {best.kv_type}: a context of {wish} tokens would take {gigabytes(need)} with "
        f"{first}, {gigabytes(max(free, 0))} are free; "
    )
    told = [_cost_of(best.kv_type, types), *(types.barred if best.n_ctx < wish else ())]
    return KvChoice(best.kv_type, best.n_ctx, why + "; ".join(told))


def _problem(kv_type: str, cost: KvCost | None, most_loss: float) -> str:
    """Why a type is not to be taken unasked; '' where it may."""
    if kv_type == KV_TYPES[0]:
        return ""
    trusted = kv_type in _TRUSTED
    if cost is None:
        return "" if trusted else f"{kv_type} is not taken before its accuracy is measured ({MEASURE})"
    if cost.problem:
        return cost.words
    too_much = cost.least > most_loss if trusted else cost.most > most_loss
    return f"{cost.words}, which may be more than kv_loss allows ({most_loss:g} %)" if too_much else ""


def _cost_of(kv_type: str, types: KvTypes) -> str:
    found = next((cost.words for cost in types.costs if cost.kv_type == kv_type and cost.against == KV_TYPES[0]), "")
    return found or f"what {kv_type} costs in accuracy was not measured yet ({MEASURE})"


def _whole_blocks(header: GgufHeader) -> bool:
    heads, width = header.n_head, header.n_embd
    usual = width // heads if heads and width else 0
    sizes = (header.number(f"attention.{name}") or usual for name in ("key_length", "value_length"))
    return all(size % _BLOCK == 0 for size in sizes)
