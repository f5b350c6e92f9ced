"""Does a backend say what llama.cpp says? The same file and text through both: perplexity, agreement of the best token.

Every BACKEND[:MODE] given is compared with llama.cpp, token for token, each seeing the same tokens before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.contract import Load
from backends.engine import Engine, Floats, Slice
from backends.registry import open_engine
from tests.engine_runs import STARTER

ROOT = Path(__file__).parent.parent.parent
_LIMITS = {"perplexity": 0.007, "agreement": 0.955}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`perplexity` of the text; `drift` is its relative distance from llama.cpp's; `agreement` of the best tokens."""

    engine: str
    tokens: int
    perplexity: float
    drift: float
    agreement: float

    @property
    def met(self) -> bool:
        return abs(self.drift) <= _LIMITS["perplexity"] and self.agreement >= _LIMITS["agreement"]


def opened(name: str, path: Path, n_ctx: int, threads: int, cache: str) -> Engine:
    backend, _, mode = name.partition(":")
    order = Load(
        backend=backend,
        path=str(path),
        n_ctx=n_ctx,
        n_seq=1,
        threads=threads,
        mode=mode,
        cache=cache,
        extra_bufts=False,
    )
    return open_engine(order, lambda *_: None)


def rows(engine: Engine, tokens: list[int]) -> Iterator[Floats]:
    """The logits after every token but the last, in pieces of whatever the engine gives at once."""
    engine.drop(0)
    info = engine.info()
    size = min(info.max_rows, info.n_batch)
    for pos in range(0, len(tokens) - 1, size):
        part = tokens[pos : min(pos + size, len(tokens) - 1)]
        result = engine.step([Slice(0, part, pos, "all")])[0]
        assert result is not None
        yield result


def read(engine: Engine, tokens: list[int]) -> tuple[float, NDArray[np.int64]]:
    """The mean negative log-likelihood of the text in nats per token, and the best token at every place."""
    loss, best, at = 0.0, [], 1
    for logits in rows(engine, tokens):
        values = logits.astype(np.float64)
        top = values.max(axis=-1)
        total = np.log(np.exp(values - top[:, None]).sum(axis=-1)) + top
        loss += float((total - values[np.arange(len(values)), tokens[at : at + len(values)]]).sum())
        best.append(values.argmax(axis=-1))
        at += len(values)
    return loss / (len(tokens) - 1), np.concatenate(best)


def compare(path: Path, names: list[str], text: str, count: int, threads: int, cache: str) -> list[Verdict]:
    """llama.cpp first, then the engines `names`."""
    engine = opened("llama.cpp", path, count + 64, threads, cache)
    tokens = engine.tokenizer.encode(text, special=False, add_bos=engine.info().add_bos)[:count]
    reference, expected = read(engine, tokens)
    engine.close()
    found = [Verdict("llama.cpp", len(tokens), float(np.exp(reference)), 0.0, 1.0)]
    for name in names:
        engine = opened(name, path, count + 64, threads, cache)
        loss, best = read(engine, tokens)
        engine.close()
        drift = float(np.expm1(loss - reference))
        found.append(Verdict(name, len(tokens), float(np.exp(loss)), drift, float((best == expected).mean())))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="+", metavar="BACKEND[:MODE]")
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", default="", help="where converted graphs are kept (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or folder
        found = compare(options.model, options.engines, text, options.tokens, options.threads, cache)
    if options.json:
        print(json.dumps({"text": options.text.name, "limits": _LIMITS, "engines": [asdict(each) for each in found]}))
    else:
        print(f"{'engine':24}{'tokens':>8}{'perplexity':>12}{'drift':>9}{'top-1':>9}")
        for each in found:
            print(f"{each.engine:24}{each.tokens:8}{each.perplexity:12.4f}{each.drift:+9.2%}{each.agreement:9.2%}")
    return 0 if all(each.met for each in found[:2]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
