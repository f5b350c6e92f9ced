"""How well the roofline foretells speed: fitted to some models, asked about others that it has never seen.

Every round takes all readings of all models once, one after the other. The error of a point is that of its prediction
against the median over the rounds (their least with `--least`, where a machine is never quiet). `--keep` stores the
readings, `--again` judges stored ones without measuring.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from backends.contract import Load
from backends.gguf import read_header
from localai.planner import ttft
from localai.readings import Reading, Shape
from localai.roofline import Prediction, Setup, fit
from localai.shapes import shape_of
from localai.step_costs import Step
from tests.perf.load import adopt_orphans
from tests.perf.measure import Figure, Rounds, arguments, at_most, play, report, say
from tests.perf.noise_gguf import Noise, write
from tests.perf.processes import LineProcess, model_path

_N_CTX = 2304
_DECODES = 24
Op = tuple[str, int]

STARTER = "starter"
FIT = (
    Noise("fit-q4-narrow", "Q4_0", layers=20, width=768, inner=2048, heads=12, kv_heads=2),
    Noise("fit-q4-wide", "Q4_0", layers=6, width=1536, inner=4096, heads=24, kv_heads=8),
    Noise("fit-q8", "Q8_0", layers=10, width=1024, inner=2816, heads=16, kv_heads=4),
    Noise("fit-f16", "F16", layers=6, width=896, inner=2432, heads=14, kv_heads=14),
    Noise("fit-moe-q4", "Q4_0", layers=8, width=768, inner=512, heads=12, kv_heads=4, experts=32, used=4),
    Noise("fit-moe-q8", "Q8_0", layers=5, width=1024, inner=768, heads=16, kv_heads=4, experts=16, used=2),
    Noise("fit-moe-deep", "Q4_0", layers=14, width=512, inner=768, heads=8, kv_heads=2, experts=48, used=4),
)
"""What is fitted to, beside the starter model."""

HELD_OUT = {
    Noise("out-q4-tall", "Q4_0", layers=24, width=896, inner=3072, heads=14, kv_heads=7): (120, 1700),
    Noise("out-q4-flat", "Q4_0", layers=4, width=2304, inner=6144, heads=36, kv_heads=9): (300, 1100),
    Noise("out-q8-tall", "Q8_0", layers=22, width=704, inner=1920, heads=11, kv_heads=11): (90, 1300),
    Noise("out-f16-flat", "F16", layers=5, width=1152, inner=2816, heads=18, kv_heads=6): (220, 1600),
    Noise("out-moe-q4-few", "Q4_0", layers=9, width=896, inner=640, heads=14, kv_heads=2, experts=16, used=4): (
        180,
        1250,
    ),
    Noise("out-moe-q8-many", "Q8_0", layers=7, width=768, inner=320, heads=12, kv_heads=6, experts=48, used=8): (
        400,
        950,
    ),
}
"""What is predicted, each at these contexts: seconds to the first token of such a prompt, and token/s after it."""

_FIT_OPS: tuple[tuple[int, tuple[Op, ...]], ...] = (
    (1, (("prefill", 32), ("decode", _DECODES), ("prefill", 96), ("prefill", 384), ("decode", _DECODES))),
    (1, (("prefill", 512), ("prefill", 512), ("decode", _DECODES))),
    (4, (("prefill", 16), ("decode", _DECODES))),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that was measured: an operation of a pass over a model, at a depth."""

    model: str
    phase: str
    tokens: int
    depth: int
    sequences: int

    @property
    def label(self) -> str:
        return f"{self.model} {self.phase} {self.tokens}@{self.depth}x{self.sequences}"


class Bench:
    """All models, loaded in a child each."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        starter = model_path(options)
        paths = {STARTER: starter} | {n.name: write(n, folder, starter) for n in (*FIT, *HELD_OUT)}
        self.shapes = {name: shape_of([read_header(path)]) for name, path in paths.items()}
        self._children = {name: stack.enter_context(self._child(path)) for name, path in paths.items()}
        versions = [str(child.receive()["version"]) for child in self._children.values()]
        self.build = versions[0]
        self.cpu: dict[str, float] = {}

    def _child(self, path: Path) -> LineProcess:
        order = Load(
            backend=self._options.backend,
            mode=self._options.mode,
            path=str(path),
            n_ctx=_N_CTX,
            n_seq=4,
            threads=self._options.threads,
            kv_type=self._options.kv_type,
            cache=self._options.cache,
        )
        return LineProcess("tests.perf.steps", msgspec.json.encode(order).decode())

    def round(self, number: int) -> dict[str, float]:
        found: dict[str, float] = {}
        names = [STARTER, *(n.name for n in FIT)]
        passes = [(name, *ops) for name in names for ops in _FIT_OPS]
        passes += [(n.name, 1, tuple(_prompt(depth))) for n, depths in HELD_OUT.items() for depth in depths]
        turn = number % len(passes)
        for name, sequences, ops in passes[turn:] + passes[:turn]:
            self._pass(found, name, sequences, ops)
        return found

    def _pass(self, found: dict[str, float], name: str, sequences: int, ops: tuple[Op, ...]) -> None:
        depth = 0
        done = self._children[name].ask({"sequences": sequences, "ops": ops})["ops"]
        for (phase, amount), result in zip(ops, done, strict=True):
            point = Point(name, phase, amount if phase == "prefill" else 1, depth, sequences)
            middle = statistics.median(result["seconds"])
            # The same chunk may be part of several prompts.
            found[point.label] = min(middle, found.get(point.label, middle))
            self.cpu[point.label] = statistics.median(result["cpu_s"])
            depth += amount if phase == "prefill" else 0


def _prompt(length: int) -> list[Op]:
    """The steps of a lone prompt of `length` tokens, and decoding after it."""
    chunks = [min(512, length - at) for at in range(0, length, 512)]
    return [*(("prefill", chunk) for chunk in chunks), ("decode", _DECODES)]


class Stored(msgspec.Struct):
    """What a run measured: readings to fit to, those to foretell, and the model of each of the latter."""

    fitted: list[Reading]
    others: list[Reading]
    names: list[str]


def stored(bench: Bench, rounds: Rounds, options: argparse.Namespace) -> Stored:
    """The medians over the rounds, as readings."""
    result = Stored([], [], [])
    middle: Callable[[Iterable[float]], float] = min if options.least else statistics.median
    for label in rounds.readings[0]:
        name, phase, place = label.split()
        tokens, _, rest = place.partition("@")
        depth, _, sequences = rest.partition("x")
        reading = Reading(
            backend=options.backend,
            build=bench.build,
            mode=options.mode,
            threads=options.threads,
            kv_type=options.kv_type,
            shape=bench.shapes[name],
            phase="prefill" if phase == "prefill" else "decode",
            tokens=int(tokens),
            depth=int(depth),
            sequences=1 if phase == "prefill" else int(sequences),
            seconds=middle(r[label] for r in rounds.readings),
            cpu_s=bench.cpu[label],
            at=time.time(),
        )
        if name.startswith("out-"):
            result.others.append(reading)
            result.names.append(name)
        else:
            result.fitted.append(reading)
    return result


@dataclass(frozen=True, slots=True)
class Verdict:
    """One held-out figure: seconds (of TTFT) or token/s (of decoding), as predicted and as measured."""

    label: str
    kind: str
    predicted: Prediction
    measured: float

    @property
    def error(self) -> float:
        return 100 * abs(self.predicted.value / self.measured - 1)

    @property
    def inside(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high


def judge(data: Stored) -> list[Verdict]:
    """Every held-out (model, context), told from the fitted readings alone."""
    one = data.fitted[0]
    model = fit(data.fitted, Setup(one.backend, one.build, one.mode, one.threads, one.kv_type))
    depths = {noise.name: contexts for noise, contexts in HELD_OUT.items()}
    verdicts = []
    for name, contexts in depths.items():
        own = [r for n, r in zip(data.names, data.others, strict=True) if n == name]
        chunks = {(r.tokens, r.depth): r.seconds for r in own if r.phase == "prefill"}
        for context in contexts:
            shape: Shape = own[0].shape
            wanted = [op for op in _prompt(context) if op[0] == "prefill"]
            starts = [sum(n for _, n in wanted[:i]) for i in range(len(wanted))]
            first = sum(chunks[n, start] for (_, n), start in zip(wanted, starts, strict=True))
            step = next(r.seconds for r in own if r.phase == "decode" and r.depth == context)
            label = f"{name} at {context}"
            verdicts.append(Verdict(label, "ttft", ttft(model, shape, context), first))
            verdicts.append(Verdict(label, "decode", model.rate(shape, Step(1, context)), 1 / step))
    return verdicts


def figures(verdicts: list[Verdict]) -> list[Figure]:
    found = []
    for kind in ("decode", "ttft"):
        errors = tuple(v.error for v in verdicts if v.kind == kind)
        found.append(Figure(f"{kind}: error, median of {len(errors)} points", "%", errors, at_most(10)))
        found.append(Figure(f"{kind}: error, worst", "%", (max(errors),), at_most(25)))
    inside = 100 * sum(v.inside for v in verdicts) / len(verdicts)
    found.append(Figure("points inside their error bars", "%", (inside,)))
    return found


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--backend", default="llama.cpp", help="any registered backend (default: %(default)s)")
    parser.add_argument("--mode", default="", help="how it computes with the weights")
    parser.add_argument("--kv-type", default="f16")
    parser.add_argument("--cache", default="", help="folder for what the backend derives from the weights")
    parser.add_argument("--least", action="store_true", help="take the least of the rounds instead of the median")
    parser.add_argument("--folder", type=Path, help="keep the models of noise here (1.7 GB)")
    parser.add_argument("--keep", type=Path, help="write the readings here")
    parser.add_argument("--again", type=Path, help="judge the readings of this file; nothing is measured")
    options = parser.parse_args()
    with ExitStack() as stack:
        rounds = Rounds(wanted=1, readings=[{}])
        if options.again:
            data = msgspec.json.decode(options.again.read_bytes(), type=Stored)
        else:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="localai-noise-"))
            folder = options.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            adopt_orphans()
            bench = Bench(stack, options, folder)
            bench.round(0)
            rounds = play(options, bench.round)
            if not rounds.readings:
                return report("predictions", options, rounds, [])
            data = stored(bench, rounds, options)
            if options.keep:
                options.keep.write_bytes(msgspec.json.encode(data))
    verdicts = judge(data)
    for v in verdicts:
        bar = f"{v.predicted.low:.4g} to {v.predicted.high:.4g}"
        say(f"{v.label:24} {v.kind:7} predicted {v.predicted.value:8.4g} ({bar})  measured {v.measured:8.4g}")
    points = [asdict(v) | {"error_percent": v.error, "inside": v.inside} for v in verdicts]
    facts = {"backend": options.backend, "mode": options.mode, "kv_type": options.kv_type, "points": points}
    facts |= {"statistic": "least" if options.least else "median", "measured_before": bool(options.again)}
    return report("predictions", options, rounds, figures(verdicts), **facts)


if __name__ == "__main__":
    sys.exit(main())
