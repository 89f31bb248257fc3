"""The log as JSON: each line is an object, whatever is logged, and says what it is about."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from evaluation import Catalog
from service.jobs.evaluations import Claim
from service.jobs.executors import DeviceExecutor
from service.jobs.spans import log_fields
from service.logs import JsonLines
from tests.end_to_end.processes import end, server
from tests.server import a_plan
from tests.spans import SENT, TRACE, exporter

__all__ = ["exporter"]

SPEC = {"models": ["tiny"], "dataset": "shapes", "images": 6, "conditions": [{"kind": "clean"}]}


class Lines(logging.Handler):
    """What is logged, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def last(self) -> dict[str, Any]:
        assert "\n" not in self.lines[-1]
        return json.loads(self.lines[-1])


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, log = Lines(), logging.getLogger("service.tested")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


LOG = logging.getLogger("service.tested")


def test_a_line_says_when_who_and_what(lines: Lines) -> None:
    LOG.warning("%s\nand more", "two lines", extra={"job": "a" * 16, "color_message": "\x1b[1m"})
    found = lines.last()
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(found.pop("time")) < timedelta(minutes=1)
    assert found == {
        "level": "WARNING",
        "logger": "service.tested",
        "message": "two lines\nand more",
        "job": "a" * 16,
    }


def test_an_exception_is_one_line(lines: Lines) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        LOG.exception("it failed")
    found = lines.last()
    assert found["message"] == "it failed"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: a\nb")


def test_a_line_within_a_span_has_its_trace(lines: Lines, exporter: InMemorySpanExporter) -> None:
    with trace.get_tracer("t").start_as_current_span("s", TraceContextTextMapPropagator().extract(SENT)):
        LOG.warning("inside")
    assert lines.last()["trace_id"] == TRACE
    with trace.get_tracer("t").start_as_current_span("s"):
        LOG.warning("not recorded")
    assert "trace_id" not in lines.last()


@pytest.mark.parametrize("stored", [None, json.dumps(SENT)])
def test_a_line_about_a_shard_says_which(lines: Lines, stored: str | None) -> None:
    plan = a_plan()
    LOG.warning("failed", extra=log_fields(Claim(1, plan.id, plan, plan.shards[1], stored), "cuda:0"))
    found = lines.last()
    about = {"job": plan.id, "model": "tiny", "condition": "clean", "start": 100, "device": "cuda:0"}
    assert {name: found[name] for name in about} == about
    assert found.get("trace_id") == (TRACE if stored else None)


def warn() -> None:
    logging.getLogger("attacks.tested").warning("from a device")


@pytest.mark.usefixtures("spawned")
def test_the_processes_of_devices_write_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    executor = DeviceExecutor("cpu", timeout_s=60, log_format="json")
    executor.submit(warn).result()
    executor.shutdown()
    assert json.loads(capfd.readouterr().err)["message"] == "from a device"


@pytest.mark.slow
def test_every_line_of_a_run_is_json(catalog: Catalog, tmp_path: Path) -> None:
    with server(catalog, tmp_path / "data", tmp_path / "log", "--json") as (process, client):
        job = client.submit(SPEC)
        for _ in client.watch(job["id"]):
            pass
        end(process)
    found = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, found))
    assert any(each["logger"] == "uvicorn.error" for each in found)
    about = {"job": job["id"], "model": "tiny", "condition": "clean", "start": 0}
    shards = [each for each in found if each["logger"] == "service.jobs.dispatcher"]
    assert [each["message"] for each in shards] == ["shard is handed out", "shard is done"]
    for each in shards:
        assert {name: each[name] for name in about} == about
        assert each["device"].startswith(("cpu", "cuda"))
    assert shards[1]["seconds"] > 0
