"""Fill in the middle while somebody types: from a keystroke to the first token, with 2,000 tokens around the cursor.

Every request is given up for the next one, as editors do. The model is the starter's file (or --model) with three of
its control tokens named as markers: what it writes is noise, its shape and speed are real.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf

from tests.perf.measure import Figure, Reading, Rounds, arguments, at_most, play, quantile, report
from tests.perf.processes import Daemon, SseClient, model_path, whole

_LINE = "    return self.value_of(index) + offset"
_BEFORE_TOKENS, _AFTER_TOKENS = 1600, 400
_MARKERS = {"fim_pre": 3, "fim_suf": 4, "fim_mid": 5}
_SETTLE_S = 5.0


def marked(source: Path, folder: Path) -> Path:
    """A copy of `source` whose vocabulary names its fill-in-the-middle markers."""
    reader = gguf.GGUFReader(source)
    first_tensor, data = reader.tensors[0].field.offset, reader.data_offset
    raw = source.read_bytes()
    pairs = b""
    for name, token in _MARKERS.items():
        key = f"tokenizer.ggml.{name}_token_id".encode()
        kind = int(gguf.GGUFValueType.UINT32)
        pairs += len(key).to_bytes(8, "little") + key + kind.to_bytes(4, "little") + token.to_bytes(4, "little")
    count = int.from_bytes(raw[16:24], "little") + len(_MARKERS)
    head = raw[:16] + count.to_bytes(8, "little") + raw[24:first_tensor] + pairs
    head += raw[first_tensor : first_tensor + _infos_size(reader)]
    made = folder / "marked.gguf"
    made.write_bytes(head + b"\0" * (-len(head) % reader.alignment) + raw[data:])
    return made


def _infos_size(reader: gguf.GGUFReader) -> int:
    """Bytes of the descriptions of all tensors: name, dimensions, type and offset of each."""
    return sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in reader.tensors)


class Bench:
    """One daemon, and one typed line over it."""

    def __init__(self, client: SseClient, daemon: Daemon) -> None:
        self._client, self._daemon = client, daemon
        source = textwrap.__file__
        text = Path(source).read_text(encoding="utf-8") * 4
        self._before, self._after = self._cut(text, _BEFORE_TOKENS), self._cut(text[9000:], _AFTER_TOKENS)
        whole(self._ask("", 8))

    def _cut(self, text: str, tokens: int) -> str:
        """Whole lines of `text`, about so many tokens of them."""
        count = len(
            self._daemon.client.post("/tokenize", {"model": "marked", "content": text[:8000]}, timeout=300)["tokens"]
        )
        return text[: int(8000 * tokens / count)].rpartition("\n")[0] + "\n"

    def _ask(self, typed: str, most: int, **extra: Any) -> dict[str, Any]:
        body = {
            "model": "marked",
            "prompt": self._before + typed,
            "suffix": "\n" + self._after,
            "max_tokens": most,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
            "speculation": "off",
        }
        return self._client.play([{"port": self._daemon.port, "path": "/v1/completions", "body": body, **extra}])[0]

    def round(self, number: int) -> Reading:
        self._before += f"# round {number}\n"
        fresh = self._ask("", 1)
        waits, superseded = [], []
        for end in range(1, len(_LINE) + 1):
            answer = self._ask(_LINE[:end], 64, stop_after=1)
            waits.append(1000 * (answer["times"][0] - answer["sent"]))
            if end % 8 == 0:
                superseded.append(self._steps_after())
        last = whole(self._ask(_LINE, 1))
        return {
            "keystroke p50": statistics.median(waits),
            "keystroke p95": quantile(waits, 0.95),
            "new line": 1000 * (fresh["times"][0] - fresh["sent"]),
            "prompt": last["usage"]["prompt_tokens"],
            "cached": last["usage"]["prompt_tokens_details"]["cached_tokens"],
            "steps after it was given up": statistics.median(superseded),
        }

    def _steps_after(self) -> int:
        """Engine steps from now until nothing runs: of the request whose client has just gone."""
        seen, begun = self._daemon.engine(), time.monotonic()
        first = seen["steps"]
        while seen["users"] and time.monotonic() - begun < _SETTLE_S:
            seen = self._daemon.engine()
        return int(seen["steps"] - first)


def figures(rounds: Rounds) -> list[Figure]:
    return [
        rounds.figure("keystroke p50", "ms", at_most(120)),
        rounds.figure("keystroke p95", "ms"),
        rounds.figure("new line", "ms"),
        rounds.figure("steps after it was given up", "", at_most(1)),
        rounds.figure("prompt", "tokens"),
        rounds.figure("cached", "tokens"),
    ]


def main() -> int:
    options: argparse.Namespace = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = marked(model_path(options), Path(folder))
        daemon = stack.enter_context(Daemon(options, backend="llama.cpp"))
        command = [sys.executable, "-P", "-m", "localai", "models", "import", str(model), "--name", "marked"]
        subprocess.run(command, env=daemon.environment, check=True, capture_output=True)
        client = stack.enter_context(SseClient())
        rounds = play(options, Bench(client, daemon).round)
        facts = {"model": model_path(options).name}
        return report("fim", options, rounds, figures(rounds) if rounds.readings else [], **facts)


if __name__ == "__main__":
    sys.exit(main())
