"""Traces of evaluations in the database: each ends once, with whatever happened to its evaluation."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from evaluation import ShardResult
from service.jobs.evaluations import Damaged, Status
from service.jobs.failures import ShardError
from service.jobs.spans import record_evaluation, record_shard
from service.jobs.store import MAX_FAILURES, Store
from tests.server import a_plan
from tests.service.jobs.stores import change, claim, drain, forget_versions, on_sqlite
from tests.spans import attributes

FIRST, SECOND = (json.dumps({"traceparent": f"00-{number:032x}-{number:016x}-01"}) for number in (1, 2))


def ended(store: Store) -> list[tuple[str, str]]:
    return [(each.evaluation.id, each.trace) for each in store.take_ended_traces()]


def test_a_trace_ends_when_its_evaluation_does_and_once(store: Store) -> None:
    plan = a_plan()
    store.submit(plan, trace=FIRST)
    store.submit(a_plan(1))
    assert claim(store).trace == FIRST
    assert not ended(store)
    store.recover()
    assert {each.trace for each in drain(store)} == {FIRST, None}
    assert ended(store) == [(plan.id, FIRST)]
    assert not ended(store)


def test_a_store_that_no_longer_dispatches_takes_no_traces(store: Store) -> None:
    first = store.take_dispatch(locked=False)
    assert first is not None
    first.leave_dispatch()
    assert store.take_dispatch(locked=False) is not None
    store.submit(a_plan(), trace=FIRST)
    drain(store)
    with pytest.raises(RuntimeError, match="taken the dispatch over"):
        first.take_ended_traces()
    assert ended(store) == [(a_plan().id, FIRST)]


def test_whoever_revives_an_evaluation_has_it_in_its_trace_and_whoever_repeats_it_has_not(store: Store) -> None:
    plan = a_plan()
    store.submit(plan, trace=FIRST)
    store.submit(plan, trace=SECOND)
    assert claim(store).trace == FIRST
    store.cancel(plan.id)
    assert ended(store) == [(plan.id, FIRST)]
    store.submit(plan, trace=SECOND)
    assert {each.trace for each in drain(store)} == {SECOND}
    assert ended(store) == [(plan.id, SECOND)]


def test_a_removed_evaluation_leaves_no_trace(store: Store) -> None:
    store.submit(a_plan(), trace=FIRST)
    drain(store)
    assert store.remove(a_plan().id) is not None
    assert not ended(store)


def test_an_evaluation_that_cannot_be_read_ends_its_trace(store: Store, database: Path | str) -> None:
    store.submit(a_plan(), trace=FIRST)
    change(database, "UPDATE evaluations SET plan = 'x'")
    assert store.claim() is None
    (found,) = store.take_ended_traces()
    assert isinstance(found.evaluation, Damaged)


@on_sqlite
def test_a_database_from_before_there_were_traces_is_used_as_it_is(store: Store, database: Path) -> None:
    store.submit(a_plan())
    change(database, "DROP TABLE traces")
    forget_versions(database)
    store.close()
    again = Store.at(database)
    assert again.submit(a_plan(1), trace=FIRST)
    assert len(drain(again)) == 6
    assert ended(again) == [(a_plan(1).id, FIRST)]
    again.close()


def test_every_try_of_a_shard_is_a_span_and_what_failed_is_said(store: Store, exporter: InMemorySpanExporter) -> None:
    plan = a_plan(images=50)
    store.submit(plan, trace=FIRST)
    failed: Future[ShardResult] = Future()
    failed.set_exception(ShardError("no memory"))
    for _ in range(MAX_FAILURES):
        claimed = claim(store)
        store.fail(claimed.id, "no memory")
        record_shard(claimed, failed, device="cpu", since_ns=1)
    (found,) = store.take_ended_traces()
    record_evaluation(found)
    spans = exporter.get_finished_spans()
    assert [each.name for each in spans] == ["shard"] * MAX_FAILURES + ["evaluation"]
    for each in spans:
        assert attributes(each)["withstand.status"] == Status.FAILED
        assert (each.status.status_code, each.status.description) == (StatusCode.ERROR, "no memory")
        assert each.parent is not None
        assert (each.parent.trace_id, each.parent.span_id) == (1, 1)


def test_what_was_cancelled_is_no_error(store: Store, exporter: InMemorySpanExporter) -> None:
    store.submit(a_plan(), trace=FIRST)
    claimed, cancelled = claim(store), Future[ShardResult]()
    cancelled.cancel()
    store.cancel(a_plan().id)
    record_shard(claimed, cancelled, device="cpu", since_ns=1)
    for found in store.take_ended_traces():
        record_evaluation(found)
    spans = exporter.get_finished_spans()
    assert [attributes(each)["withstand.status"] for each in spans] == [Status.CANCELLED] * 2
    assert all(each.status.status_code is StatusCode.UNSET for each in spans)
