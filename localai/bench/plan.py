"""What makes two runs the same undertaking, so that one can go on where the other was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def digest(suite: str, configurations: Sequence[dict[str, Any]], rounds: int) -> str:
    """SHA-256 over the questions' digest, the configurations with the digests of their weights, and the rounds."""
    content = {"suite": suite, "configurations": list(configurations), "rounds": rounds}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
