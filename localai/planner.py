"""Which ways of running a model fit this device, and how fast each would be. Pure.

Variants of a model, ways to run them, room and readings enter; rows with memory, predicted speed and their place on the
Pareto front leave, or a refusal with numbers. Knows no files, no hub and no engine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from backends.gguf_header import GgufHeader
from localai.budget import LEAST_CTX, MOST_CTX, Charge, charge, gigabytes
from localai.errors import BadRequest, OutOfResources
from localai.fidelity import Fidelity, fidelity
from localai.readings import Reading, Shape
from localai.roofline import Prediction, Roofline, Setup, fit
from localai.step_costs import Step

CHUNK = 512
"""Tokens of a full prefill step of a lone prompt: the batch of all engines."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantisation of a model; `header` is its own, or a sister's where only its size is known (`estimated`).

    `parts` are the headers of all its files where they are known.
    """

    quant: str
    shape: Shape
    header: GgufHeader
    estimated: bool = False
    parts: tuple[GgufHeader, ...] = ()

    def charge(self, n_ctx: int, way: Way) -> Charge:
        """What serving `n_ctx` tokens takes; the copies of the weights that a backend makes count."""
        need = charge(self.header, n_ctx, way.kv_type, way.backend, way.mode)
        # Of several files the header is one's, and of sister quantisations another's.
        return replace(need, weights=int(need.weights / max(1, self.header.weight_bytes) * self.shape.resident_bytes))


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run an engine here. `offloads` tells whether it can put layers on a GPU."""

    backend: str
    build: str
    mode: str
    threads: int
    kv_type: str
    offloads: bool = False

    def setup(self, offloaded: float) -> Setup:
        return Setup(self.backend, self.build, self.mode, self.threads, self.kv_type, offloaded)


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a model may take; `vram` is 0 without a GPU that an engine can use, `shared` where both are one."""

    ram: int
    vram: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Paged:
    """Bytes of weights that would be `resident` of a model of `whole`; `pinned` are those that every token reads."""

    resident: int
    pinned: int
    whole: int


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate. Bytes as planned; `prefill` and `decode` in token/s, `ttft` in seconds, loading not included.

    `decode` is after a prompt of the asked length. `front` marks what no other row beats in every respect; `paged` is
    for weights that do not all fit.
    """

    variant: Variant
    way: Way
    gpu_layers: int
    n_ctx: int
    need: Charge
    ram: int
    vram: int
    fits: bool
    prefill: Prediction
    decode: Prediction
    ttft: Prediction
    fidelity: Fidelity
    front: bool = False
    paged: Paged | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Context to serve (0: what fits, at most what the model was trained for) and the prompt to time, in tokens."""

    n_ctx: int = 0
    tokens: int = CHUNK


def prompt_steps(tokens: int) -> list[Step]:
    """The prefill steps of a lone prompt, each at the depth that those before it have reached."""
    return [Step(min(CHUNK, tokens - at), at) for at in range(0, tokens, CHUNK)]


def ttft(model: Roofline, shape: Shape, tokens: int) -> Prediction:
    """Seconds from the start of a prompt of `tokens` to its first token, on a loaded and idle engine."""
    return model.seconds(shape, prompt_steps(tokens))


def plan(
    candidates: Sequence[tuple[Variant, Way]],
    room: Room,
    asked: Asked,
    readings: Sequence[Reading],
    page: Callable[[Row], Row | None] = lambda _: None,
) -> list[Row]:
    """All candidates, the fitting ones first, of these the Pareto front, each most faithful and fastest first.

    `page` makes a row of a variant that fits in no other way, where its weights can be paged. Raises BadRequest where
    the prompt is longer than the context, OutOfResources with numbers where nothing fits.
    """
    if asked.n_ctx and asked.tokens > asked.n_ctx:
        raise BadRequest(
            f"a prompt of {asked.tokens} tokens does not fit a context of {asked.n_ctx}",
            "ask for fewer --tokens or a larger --ctx",
            param="tokens",
        )
    speeds = _Speeds(readings)
    rows = [row for variant, way in candidates for row in _candidates(variant, way, room, asked, speeds)]
    fitting = {id(row.variant) for row in rows if row.fits}
    rows += [made for row in rows if id(row.variant) not in fitting and (made := page(row)) is not None]
    if not any(row.fits for row in rows):
        raise _refusal(rows, room)
    best = {id(row) for row in front([row for row in rows if row.fits])}
    marked = [replace(row, front=id(row) in best) for row in rows]
    return sorted(marked, key=lambda row: (not row.fits, not row.front, row.fidelity, -row.decode.value))


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that no other row beats: less memory, faster decode, shorter TTFT and higher fidelity, or as good."""
    return [row for row in rows if not any(_beats(other, row) for other in rows)]


def _beats(a: Row, b: Row) -> bool:
    """Less is better in each of `_worth`."""
    ours, theirs = _worth(a), _worth(b)
    no_worse = ours[0] <= theirs[0] and ours[1] <= theirs[1] and ours[2] <= theirs[2] and a.fidelity <= b.fidelity
    return no_worse and (ours, a.fidelity) != (theirs, b.fidelity)


def _worth(row: Row) -> tuple[float, float, float]:
    return row.ram + row.vram, -row.decode.value, row.ttft.value


class _Speeds:
    """Rooflines of setups, each fitted once."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings
        self._known: dict[Setup, Roofline] = {}

    def of(self, setup: Setup) -> Roofline:
        if setup not in self._known:
            self._known[setup] = fit(self._readings, setup)
        return self._known[setup]

    def predict(self, way: Way, share: float, ask: Callable[[Roofline], Prediction]) -> Prediction:
        """Seconds with `share` of the layers on a GPU: each part of them takes its part of the time."""
        if share in (0.0, 1.0):
            return ask(self.of(way.setup(share)))
        gpu, cpu = ask(self.of(way.setup(1.0))), ask(self.of(way.setup(0.0)))
        value, low, high = (
            share * a + (1 - share) * b for a, b in ((gpu.value, cpu.value), (gpu.low, cpu.low), (gpu.high, cpu.high))
        )
        basis = cpu.basis if gpu.basis == cpu.basis else f"{gpu.basis}; {cpu.basis}"
        return Prediction(value, low, high, basis, gpu.measured and cpu.measured)


def _candidates(variant: Variant, way: Way, room: Room, asked: Asked, speeds: _Speeds) -> Iterator[Row]:
    layers = variant.shape.layers
    counts = {0}
    if way.offloads:
        counts |= {layers}
        fitting = _layers_that_fit(variant, way, room, asked)
        counts |= {fitting} if fitting else set()
    for count in sorted(counts):
        n_ctx = _context(variant, way, count, room, asked)
        need = variant.charge(n_ctx, way)
        share = count / layers if layers else 0.0
        ram, vram = _split(need, share, room)
        yield Row(
            variant=variant,
            way=way,
            gpu_layers=count,
            n_ctx=n_ctx,
            need=need,
            ram=ram,
            vram=vram,
            fits=ram <= room.ram and vram <= room.vram,
            prefill=_seconds(speeds, way, share, variant.shape, [Step(CHUNK, 0)]).inverse(CHUNK),
            decode=_seconds(speeds, way, share, variant.shape, [Step(1, asked.tokens)]).inverse(),
            ttft=_seconds(speeds, way, share, variant.shape, prompt_steps(asked.tokens)),
            fidelity=fidelity(variant.quant, way.mode, way.kv_type),
        )


def _seconds(speeds: _Speeds, way: Way, share: float, shape: Shape, steps: Sequence[Step]) -> Prediction:
    return speeds.predict(way, share, lambda model: model.seconds(shape, steps))


def _layers_that_fit(variant: Variant, way: Way, room: Room, asked: Asked) -> int:
    """The most layers whose weights and KV the GPU's memory holds, beside its compute buffers."""
    n_ctx = asked.n_ctx or max(LEAST_CTX, asked.tokens)
    need = variant.charge(n_ctx, way)
    each = (need.weights + need.kv) / max(1, variant.shape.layers)
    return max(0, min(variant.shape.layers, int((room.vram - need.compute) / each)))


def _split(need: Charge, share: float, room: Room) -> tuple[int, int]:
    """Bytes in RAM and in VRAM with `share` of the layers on the GPU."""
    if room.shared or not share:
        return need.total, 0
    moved = int(share * (need.weights + need.kv))
    return need.weights + need.kv - moved + need.compute, moved + need.compute


def _context(variant: Variant, way: Way, gpu_layers: int, room: Room, asked: Asked) -> int:
    """What would be served: the asked context, else the longest usual one that fits, but never less than the prompt."""
    if asked.n_ctx:
        return asked.n_ctx
    least = max(LEAST_CTX, asked.tokens)
    n_ctx = max(least, min(variant.header.n_ctx_train or MOST_CTX, MOST_CTX))
    share = gpu_layers / variant.shape.layers if gpu_layers else 0.0
    while n_ctx > least:
        ram, vram = _split(variant.charge(n_ctx, way), share, room)
        if ram <= room.ram and vram <= room.vram:
            break
        n_ctx = max(least, n_ctx // 2)
    return n_ctx


def _refusal(rows: Sequence[Row], room: Room) -> OutOfResources:
    """Both numbers of the smallest candidate, and the smallest change that would make something fit."""
    least = min(rows, key=lambda row: row.ram + row.vram)
    budget = f"{gigabytes(room.ram)} of RAM" + (f" and {gigabytes(room.vram)} of VRAM" if room.vram else "")
    message = (
        f"nothing fits into {budget}: the smallest candidate, {least.variant.quant} on {least.way.backend} with "
        f"{least.way.kv_type} KV, needs {gigabytes(least.ram + least.vram)} for a context of {least.n_ctx} tokens "
        f"(weights {gigabytes(least.need.weights)}, KV {gigabytes(least.need.kv)})"
    )
    shorter = _longest_that_fits(rows, room, least.n_ctx)
    remedies = [f"raise the budget to {gigabytes(least.ram + least.vram)} (--ram)"]
    if shorter:
        n_ctx, variant, kv_type = shorter
        remedies.insert(0, f"{variant.quant} with {kv_type} KV fits with --ctx {n_ctx}")
    else:
        remedies.append("take a smaller quantisation or model")
    return OutOfResources(message, ", or ".join(remedies))


def _longest_that_fits(rows: Sequence[Row], room: Room, below: int) -> tuple[int, Variant, str] | None:
    """The longest context shorter than `below` that a candidate fits with in RAM alone, or None."""
    best: tuple[int, Variant, str] | None = None
    for row in rows:

        def short(n_ctx: int, row: Row = row) -> bool:
            return row.variant.charge(n_ctx, row.way).total > room.ram

        steps = bisect_left(range(LEAST_CTX, below, LEAST_CTX), True, key=short)
        if steps and steps * LEAST_CTX > (best[0] if best else 0):
            best = steps * LEAST_CTX, row.variant, row.way.kv_type
    return best
