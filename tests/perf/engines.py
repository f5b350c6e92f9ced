"""Backends against each other on one file, in one process, without server or batcher: prefill, decode at two depths.

Each BACKEND[:MODE] is compared with the first. With one thread, its CPU time can be read in place of wall time
(`--cpu`): then neighbours on the same cores matter less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from backends.contract import Load
from backends.engine import Engine, Slice
from backends.registry import open_engine
from tests.perf.measure import Reading, arguments, play, report
from tests.perf.processes import model_path

_PREFILL, _DEPTH, _DECODES = 512, 1024, 16
Clock = Callable[[], float]


def speeds(engine: Engine, tokens: list[int], clock: Clock) -> dict[str, float]:
    """Token/s of a whole step of prefill, and of single decodes (their median) after few and after many tokens."""
    engine.drop(0)
    begun = clock()
    engine.step([Slice(0, tokens[:_PREFILL], 0, "last")])
    found = {f"prefill {_PREFILL}": _PREFILL / (clock() - begun)}
    engine.trim(0, 16)
    found["decode at 0"] = _decode(engine, tokens[0], 16, clock)
    engine.drop(0)
    for pos in range(0, _DEPTH, _PREFILL):
        engine.step([Slice(0, tokens[pos : pos + _PREFILL], pos, "none")])
    found[f"decode at {_DEPTH}"] = _decode(engine, tokens[0], _DEPTH, clock)
    return found


def _decode(engine: Engine, token: int, pos: int, clock: Clock) -> float:
    seconds = []
    for at in range(pos, pos + _DECODES):
        begun = clock()
        engine.step([Slice(0, [token], at, "last")])
        seconds.append(clock() - begun)
    return 1 / statistics.median(seconds)


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("engines", nargs="+", metavar="BACKEND[:MODE]")
    parser.add_argument("--cache", default="", help="where converted graphs are kept (default: nowhere)")
    parser.add_argument("--cpu", action="store_true", help="CPU time of the calling thread; only with one thread")
    options = parser.parse_args()
    if options.cpu and options.threads != 1:
        parser.error("--cpu needs --threads 1")
    clock: Clock = time.thread_time if options.cpu else time.perf_counter
    path = str(model_path(options))
    with tempfile.TemporaryDirectory() as folder:
        opened: dict[str, Engine] = {}
        for name in options.engines:
            backend, _, mode = name.partition(":")
            order = Load(
                backend=backend,
                path=path,
                n_ctx=_DEPTH + 256,
                n_seq=4,
                threads=options.threads,
                mode=mode,
                cache=options.cache or folder,
                extra_bufts=False,
            )
            opened[name] = open_engine(order, lambda *_: None)
        vocabulary = next(iter(opened.values())).info().n_vocab
        tokens = [int(token) for token in np.random.default_rng(0).integers(0, vocabulary, _DEPTH)]

        def once(number: int) -> Reading:
            names = list(opened) if number % 2 else list(opened)[::-1]
            return {f"{n} {k}": v for n in names for k, v in speeds(opened[n], tokens, clock).items()}

        rounds = play(options, once)
        for engine in opened.values():
            engine.close()
    kinds = (f"prefill {_PREFILL}", "decode at 0", f"decode at {_DEPTH}") if rounds.readings else ()
    first, *others = options.engines
    figures = [rounds.figure(f"{name} {kind}", "token/s") for name in options.engines for kind in kinds]
    figures += [
        rounds.ratio(f"{n} / {first}, {kind}", f"{n} {kind}", f"{first} {kind}") for n in others for kind in kinds
    ]
    return report("engines", options, rounds, figures, clock="thread CPU" if options.cpu else "wall")


if __name__ == "__main__":
    raise SystemExit(main())
