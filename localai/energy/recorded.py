"""Answers from before this daemon's start: rows of the ledger enter, what an engine has experienced leaves. Pure."""

from __future__ import annotations

from typing import Any

from localai.energy.experience import Past
from localai.energy.shares import Amount


def past(row: dict[str, Any]) -> Past:
    """Of a row with joules; in which circumstances it came about, the ledger does not tell."""
    prompt, made = row["prompt_tokens"] or 0, row["completion_tokens"] or 0
    new = prompt - (row["cached_tokens"] or 0)
    # The first token comes out of prefill.
    steps = max(0, made - 1)
    return Past(
        prefill=Amount(1.0, float(new), new * (prompt - new / 2) / 1000),
        decode=Amount(float(steps), float(steps), steps * (prompt + made / 2) / 1000),
        prefill_joules=row["prefill_joules"],
        decode_joules=row["decode_joules"],
        quality=row["quality"],
        length=made if steps else 0,
        whole=row["finish"] == "stop",
    )
