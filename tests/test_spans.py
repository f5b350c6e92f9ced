"""Spans as a collector receives them over HTTP: figures of every query, and never its text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from localai.errors import ConfigError
from localai.spans import Spans, attributes_of
from tests.daemon_fixture import running

SECRET = "the word marzipan is in the prompt"


class Collector(HTTPServer):
    """An OTLP collector on loopback that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.paths: list[str] = []

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [scope for request in requests for group in request.resource_spans for scope in group.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def value(found: AnyValue) -> Any:
    kind = found.WhichOneof("value")
    assert kind is not None
    return [value(each) for each in found.array_value.values] if kind == "array_value" else getattr(found, kind)


def told(span: Any) -> dict[str, Any]:
    return {each.key: value(each.value) for each in span.attributes}


def started(collector: Collector) -> Any:
    return running(LOCALAI_OTLP=f"http://127.0.0.1:{collector.server_port}/")


def test_every_query_is_a_span_without_its_text(collector: Collector) -> None:
    with started(collector) as daemon:
        answer = daemon.chat(SECRET).json
        assert daemon.chat("x", model="nowhere").status == 404
        assert daemon.end() == 0
    assert set(collector.paths) == {"/v1/traces"}
    first, second = collector.spans
    figures = told(first)
    assert figures["gen_ai.operation.name"] == "chat"
    assert figures["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert figures["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert figures["gen_ai.response.finish_reasons"] == ["length"]
    assert figures["localai.joules"] == pytest.approx(answer["usage"]["energy"]["joules"], rel=0.01)
    assert figures["localai.quality"] == "modelled"
    assert figures["localai.cpu_seconds"] > 0
    assert figures["localai.forecast_tokens"] == 8
    assert first.end_time_unix_nano > first.start_time_unix_nano
    assert told(second)["error.type"] == "model_not_found"
    assert not any(b"marzipan" in body for body in collector.bodies)


def test_nothing_is_sent_unless_asked_for(collector: Collector) -> None:
    with running(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}") as daemon:
        daemon.chat("hello")
        assert daemon.end() == 0
    assert collector.bodies == []


def test_a_collector_that_is_gone_costs_no_answer() -> None:
    with running(LOCALAI_OTLP="http://127.0.0.1:9") as daemon:
        assert daemon.chat("hello").status == 200
        assert daemon.end() == 0


def test_all_figures_of_a_row_are_told() -> None:
    known = {"idle_joules": 2.0, "predicted_joules": 3.0, "forecast_joules": 4.0, "cpu_seconds": 0.5}
    told = attributes_of({"kind": "chat", "model": "m", **known})
    assert {name: told[f"localai.{name}"] for name in known} == known


def test_what_is_not_known_is_left_out() -> None:
    row = {"kind": "embedding", "model": "m", "started": 0.0, "joules": None, "finish": None, "error": None}
    assert attributes_of(row) == {
        "gen_ai.provider.name": "localai",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "m",
    }


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="otlp is 'collector'"):
        Spans("collector")
