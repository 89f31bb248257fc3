"""Spans arrive at a collector that the standard variables name, from whatever process made them."""

import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from evaluation import Catalog
from service.settings import Settings
from tests.end_to_end.processes import server, wait_for
from tests.server import serving
from tests.service.http.asked import PGD, watch
from tests.spans import CALLER, TRACE, exporter, named

__all__ = ["exporter"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPEC = {
    "models": ["tiny"],
    "dataset": "shapes",
    "conditions": [
        {"kind": "clean"},
        *(PGD | {"attacks": [{"name": "pgd", "parameters": {"steps": steps}}]} for steps in (99, 100)),
    ],
}


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.received: list[ExportTraceServiceRequest] = []

    def spans(self, name: str) -> list[tuple[str, str, str]]:
        """Of a name: trace, parent, and the ids of the spans."""
        return [
            (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex())
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name == name
        ]

    def services(self) -> set[str]:
        resources = [each.resource for request in self.received for each in request.resource_spans]
        return {a.value.string_value for each in resources for a in each.attributes if a.key == "service.name"}


class _Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "the-tested-one")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield running
        running.shutdown()
        thread.join()


def test_an_evaluation_that_another_process_finishes_stays_in_the_trace_of_whoever_submitted_it(
    collector: Collector,
    exporter: InMemorySpanExporter,
    catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server(catalog, tmp_path, tmp_path / "server.log") as (process, client):
        sent = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
        submitted = httpx.post(f"{client.url}/v1/evaluations", json=SPEC, headers=sent).json()
        next(state for state in client.watch(submitted["id"]) if state["progress"]["shards_done"] >= 1)
        wait_for(lambda: collector.spans("shard"))
        process.send_signal(signal.SIGKILL)
        process.wait()
    ((trace, caller, request),) = collector.spans("POST /v1/evaluations")
    assert (trace, caller) == (TRACE, CALLER)
    sent_before = collector.spans("shard")
    assert {each[:2] for each in sent_before} == {(TRACE, request)}
    assert not collector.spans("evaluation")
    assert collector.services() == {"the-tested-one"}

    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    folders = {"model_dirs": catalog.model_folders, "dataset_dirs": catalog.dataset_folders}
    with serving(Settings(data_dir=tmp_path, devices=("cpu",), **folders)) as again:
        assert watch(again.http, submitted)[-1]["status"] == "done"
        wait_for(lambda: named(exporter, "evaluation"))
    shards = named(exporter, "shard")
    assert 1 <= len(shards) <= 3 - len(sent_before)
    for each in (*shards, *named(exporter, "evaluation")):
        assert each.parent is not None
        assert (f"{each.parent.trace_id:032x}", f"{each.parent.span_id:016x}") == (TRACE, request)
        assert each.context is not None
        assert each.context.trace_state.to_header() == "vendor=1"
