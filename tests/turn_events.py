"""What a turn of a model that thinks, speaks and calls two tools gives; and a tool's shape."""

from __future__ import annotations

from localai.messages import ChoiceDone, Delta, Started, Summary, Timings, ToolCallDelta, TurnEvent

STRICT = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
TIMES = Timings(
    queue_ms=0, load_ms=0, restore_ms=0, ttft_ms=1, prefill_ms=1, decode_ms=1, prefill_tps=1, decode_tps=1, total_ms=2
)
CUT: list[TurnEvent] = [
    Started("m", "echo", "", 4096, "1"),
    Delta(0, tool_calls=(ToolCallDelta(0, "a", "f", "{}"),)),
    Delta(0, tool_calls=(ToolCallDelta(1, "b", "g", '{"x'),)),
    ChoiceDone(0, "length", None, frozenset({1}), cut=True),
    Summary(prompt_tokens=9, cached_tokens=4, completion_tokens=7, timings=TIMES),
]
"""The second call is cut short by the limit."""
EVENTS: list[TurnEvent] = [
    Started("m", "echo", "", 4096, "1"),
    Delta(0, reasoning="hm"),
    Delta(0, content="Well"),
    Delta(0, content="."),
    Delta(0, tool_calls=(ToolCallDelta(0, "a", "f", '{"x"'),)),
    Delta(0, tool_calls=(ToolCallDelta(0, None, None, ": 1}"),)),
    Delta(0, tool_calls=(ToolCallDelta(1, "b", "g", "{}"),)),
    ChoiceDone(0, "tool_calls"),
    Summary(prompt_tokens=9, cached_tokens=4, completion_tokens=7, timings=TIMES),
]
