"""Names of KV blocks: a SHA-256 chain over tokens, rooted in everything else that changes a block's bytes.

What an engine says of itself and a model's file enter, keys of 32 bytes leave. Knows neither tiers nor files of blocks.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from backends.bounded import WINDOW
from backends.gguf import shards

FORMAT = 1
"""Raised whenever the bytes of a block file or the meaning of a key changes."""
BLOCK = 256
"""Tokens of a whole block; the last one of a turn may be shorter."""
_SAMPLES = 256
_SAMPLE = 4096


def packed(tokens: Iterable[int]) -> array[int]:
    """Tokens as they are hashed, compared and kept."""
    return array("I", tokens)


def root_key(identity: Mapping[str, str], digest: str, block: int) -> bytes:
    """The key that stands before a sequence's first block.

    `identity` is what the engine says changes the bytes of its KV (`EngineInfo.kv_identity`), `digest` names the
    weights, `block` is the number of tokens in a whole block.
    """
    whole = {"format": FORMAT, "block": block, "model": digest, "engine": dict(sorted(identity.items()))}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).digest()


def branch_key(root: bytes, parts: Iterable[object]) -> bytes:
    """The root of sequences under `parts`, what else went into their bytes; `root` itself where there are none."""
    described = [repr(part) for part in parts]
    return hashlib.sha256(root + json.dumps(described).encode()).digest() if described else root


def block_key(parent: bytes, tokens: array[int]) -> bytes:
    """The key of the block of `tokens` that follows the block `parent`."""
    return hashlib.sha256(parent + len(tokens).to_bytes(4, "little") + tokens.tobytes()).digest()


def file_digest(path: Path) -> str:
    """A name for weights that nobody vouches for: of each file the size, time and beginning, and samples of the rest.

    `path` is a file, the first of several, or a folder. Reading all would take longer than loading it. Raises OSError.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else shards(path)
    found = hashlib.sha256()
    for part in files:
        for piece in _sample(part):
            found.update(piece)
    return found.hexdigest()


def _sample(path: Path) -> Iterator[bytes]:
    facts = path.stat()
    yield f"{facts.st_size} {facts.st_mtime_ns}".encode()
    with path.open("rb") as file:
        yield file.read(WINDOW)
        for number in range(_SAMPLES):
            file.seek(facts.st_size * number // _SAMPLES)
            yield file.read(_SAMPLE)
