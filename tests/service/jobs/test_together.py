"""Shards that are handed out, or stored, in one transaction: none is lost or run twice, whatever goes wrong between them."""

import itertools
from contextlib import ExitStack
from typing import Any

import pytest

import evaluation.plan
import service.jobs.dispatcher
from evaluation import Catalog, Plan
from evaluation.results.protocol import look_up
from service.jobs.evaluations import ShardStatus, Status
from service.jobs.queue import Queue
from service.jobs.store import Store
from service.sql.database import StoreError
from tests.server import until
from tests.service.jobs.dispatching import Start, Threads, plan_of, read


@pytest.fixture
def plan(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Eleven shards."""
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 3)
    return plan_of(catalog, images=33)


@pytest.mark.parametrize("devices", [1, 5])
def test_more_devices_than_a_transaction_serves_run_every_shard_once(
    store: Store, plan: Plan, start: Start, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    monkeypatch.setattr(service.jobs.dispatcher, "TOGETHER", 2)
    store.submit(plan)
    with ExitStack() as stack:
        threads = {f"{number}": stack.enter_context(Threads()) for number in range(devices)}
        start(threads)
        until(lambda: read(store, plan).status is Status.DONE)
    assert (read(store, plan).progress.runs, sum(len(each.futures) for each in threads.values())) == (11, 11)
    assert all(each.futures for each in threads.values())


def test_where_a_claim_fails_none_of_its_transaction_is_handed_out(
    store: Store, plan: Plan, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = itertools.count()

    def fail_at_third(*args: Any) -> Any:
        if next(calls) == 2:
            assert read(store, plan).progress.shards[ShardStatus.RUNNING] == 3, "within the transaction"
            raise StoreError("the disk is full")
        return look_up(*args)

    monkeypatch.setattr(service.jobs.dispatcher, "look_up", fail_at_third)
    store.submit(plan)
    with ExitStack() as stack:
        start({f"{number}": stack.enter_context(Threads()) for number in range(4)})
        until(lambda: read(store, plan).status is Status.DONE)
    assert "the disk is full" in caplog.text
    assert read(store, plan).progress.runs == 11


def test_where_a_result_cannot_be_stored_all_of_its_transaction_are_kept(
    store: Store, plan: Plan, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spend, attempts = Queue.spend, itertools.count()

    def fail_at_first(queue: Queue, seconds: Any) -> None:
        if next(attempts) == 0:
            raise StoreError("the disk is full")
        spend(queue, seconds)

    monkeypatch.setattr(Queue, "spend", fail_at_first)
    store.submit(plan)
    with ExitStack() as stack:
        threads = [stack.enter_context(Threads()) for _ in range(4)]
        start({f"{number}": each for number, each in enumerate(threads)})
        until(lambda: read(store, plan).status is Status.DONE)
    assert "the disk is full" in caplog.text
    assert (read(store, plan).progress.runs, sum(len(each.futures) for each in threads)) == (11, 11)
    assert len(store.results(plan.id)) == 11
