"""Spans of a real SDK: in the trace of whoever asked, with the times that the answers report, also when another process goes on."""

import re
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.server import Server, until
from tests.service.http.asked import FLIP, finished
from tests.service.pictures import DISC, SQUARE, STRIPES, URL
from tests.spans import CALLER, SENT, TRACE, attributes, named, times

UNSAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


def test_a_prediction_is_a_span_of_the_callers_trace_and_its_stages_take_what_server_timing_says(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    answer = server.http.post(URL, content=DISC, headers=SENT)
    until(lambda: named(exporter, "POST /v1/models/{name}/predict"))
    (request,) = named(exporter, "POST /v1/models/{name}/predict")
    assert request.context is not None
    assert request.parent is not None
    assert (request.context.trace_id, request.parent.span_id) == (int(TRACE, 16), int(CALLER, 16))
    assert attributes(request).items() >= {
        ("http.request.method", "POST"),
        ("http.route", "/v1/models/{name}/predict"),
        ("http.response.status_code", 200),
    }
    stages = [each for each in exporter.get_finished_spans() if each is not request]
    assert [each.name for each in stages] == ["queue", "decode", "queue", "forward"]
    assert all(each.parent == request.context for each in stages)
    spent: Counter[str] = Counter()
    before, end = times(request)
    for each in stages:
        began, ended = times(each)
        assert before <= began <= ended <= end
        spent[each.name] += ended - began
        before = ended
    told = dict(re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"]))
    for name, stage in (("queue", "queue"), ("decode", "preprocess"), ("forward", "forward")):
        assert spent[name] / 1e6 == pytest.approx(float(told[stage]), abs=0.06)  # it is rounded to 0.1 ms
    assert attributes(stages[0]).keys() == {"withstand.model", "withstand.version", "withstand.images"}
    assert attributes(stages[-1])["withstand.batch_images"] == 1


def test_a_request_of_many_pictures_has_one_span_for_each_stage(server: Server, exporter: InMemorySpanExporter) -> None:
    files = [("file", ("a", DISC)), ("file", ("b", b"no picture")), ("file", ("c", SQUARE)), ("file", ("d", STRIPES))]
    server.http.post(URL, files=files, headers=SENT)
    names = Counter({"queue": 2, "decode": 1, "forward": 1, "POST /v1/models/{name}/predict": 1})
    until(lambda: Counter(each.name for each in exporter.get_finished_spans()) == names)
    (forward,) = named(exporter, "forward")
    assert attributes(forward)["withstand.images"] == 4


@pytest.mark.parametrize("headers", [{}, UNSAMPLED], ids=["no trace", "a trace that is not sampled"])
def test_what_is_not_sampled_makes_no_spans(
    fresh: Server, exporter: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    assert fresh.http.post(URL, content=DISC, headers=headers).is_success
    fresh.http.headers.update(headers)
    finished(fresh.http, images=5 + len(headers))
    assert exporter.get_finished_spans() == ()


@pytest.fixture
def traced(fresh: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fresh.url, headers=SENT, timeout=60) as client:
        yield client


def test_an_evaluation_and_its_shards_are_spans_of_the_submitters_trace(
    traced: httpx.Client, exporter: InMemorySpanExporter
) -> None:
    state = finished(traced, images=8, conditions=[FLIP])
    until(lambda: named(exporter, "evaluation"))
    (request,), (job,) = named(exporter, "POST /v1/evaluations"), named(exporter, "evaluation")
    shards = named(exporter, "shard")
    assert [attributes(each)["withstand.start"] for each in shards] == [0, 4]
    for each in (job, *shards):
        assert each.parent is not None
        assert request.context is not None
        assert (each.parent.trace_id, each.parent.span_id) == (int(TRACE, 16), request.context.span_id)
        assert attributes(each).items() >= {("withstand.evaluation", state["id"]), ("withstand.status", "done")}
        assert times(job)[0] <= times(each)[0] < times(each)[1] <= times(job)[1]
    assert times(request)[0] < times(job)[0] < times(request)[1]


def test_asking_again_makes_no_span_and_an_evaluation_whose_shards_are_known_has_one(
    traced: httpx.Client, exporter: InMemorySpanExporter
) -> None:
    finished(traced, images=9)
    until(lambda: named(exporter, "evaluation"))
    exporter.clear()
    finished(traced, images=9)
    assert exporter.get_finished_spans()
    later = finished(traced, images=8)  # the first 8 of the 9 are known
    until(lambda: named(exporter, "evaluation"))
    (job,) = named(exporter, "evaluation")
    assert attributes(job)["withstand.evaluation"] == later["id"]
    assert not named(exporter, "shard")
