"""One OpenTelemetry span per query, for those who run a collector: a row of the ledger enters, figures leave.

Names are those of the semantic conventions for generative AI; what these do not know begins with `localai.`. No text
of a prompt or an answer is in a row, so none is sent.
"""

from __future__ import annotations

import logging
from threading import Thread
from typing import TYPE_CHECKING, Any

from localai.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_log = logging.getLogger(__name__)
_OPERATION = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
_NAMED = {
    "gen_ai.request.model": "model",
    "gen_ai.conversation.id": "conversation",
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "completion_tokens",
    "error.type": "error",
}
_OWN = (
    *("request", "parent", "app", "backend", "reason", "cached_tokens"),
    *("queue_ms", "load_ms", "ttft_ms", "prefill_ms", "decode_ms"),
    *("joules", "prefill_joules", "decode_joules", "idle_joules", "watts", "cpu_seconds"),
    *("predicted_joules", "forecast_joules", "forecast_tokens"),
    *("uncertainty", "coverage", "quality", "method", "scope", "energy_reason", "energy_stopped"),
)
_PATIENCE_S = 5
_PARTING_S = 2.0


class Spans:
    """Sends in the background to the collector at `address`; where that is empty, nothing at all.

    Raises ConfigError where the packages for it are not installed.
    """

    def __init__(self, address: str) -> None:
        self._provider: TracerProvider | None = _provider(address) if address else None
        if self._provider is not None:
            self._tracer = self._provider.get_tracer("localai")

    def note(self, row: dict[str, Any]) -> None:
        """A query has ended; `row` is what the ledger keeps of it. Never waits for the collector."""
        if self._provider is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        attributes = attributes_of(row)
        begun = int(row["started"] * 1e9)
        name = f"{attributes['gen_ai.operation.name']} {row['model']}"
        span = self._tracer.start_span(name, kind=SpanKind.SERVER, attributes=attributes, start_time=begun)
        if row.get("error"):
            span.set_status(StatusCode.ERROR, row["error"])
        span.end(begun + int(row["total_ms"] * 1e6))

    def close(self) -> None:
        """Send what is left, as far as the collector takes it within two seconds."""
        if self._provider is not None:
            # The package waits for one that is gone as long as it would while running.
            parting = Thread(target=self._provider.shutdown, daemon=True)
            parting.start()
            parting.join(_PARTING_S)


def attributes_of(row: dict[str, Any]) -> dict[str, Any]:
    """The span's attributes; what the row does not know is left out."""
    kind = row["kind"]
    found = {"gen_ai.provider.name": "localai", "gen_ai.operation.name": _OPERATION.get(kind, kind)}
    found |= {name: row.get(column) for name, column in _NAMED.items()}
    found |= {f"localai.{column}": row.get(column) for column in _OWN}
    if row.get("finish"):
        found["gen_ai.response.finish_reasons"] = [row["finish"]]
    return {name: value for name, value in found.items() if value is not None}


def _provider(address: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "the setting otlp needs packages that are not installed", "pip install 'localai-daemon[otel]'"
        ) from error
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"otlp is {address!r}", "expected an address such as http://127.0.0.1:4318")
    provider = TracerProvider(resource=Resource.create({"service.name": "localai"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=address.rstrip("/") + "/v1/traces", timeout=_PATIENCE_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _log.info("figures of every query go to %s", address)
    return provider
