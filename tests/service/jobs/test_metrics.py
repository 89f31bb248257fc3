"""Shards are counted: how long they take, what they need, on which device, and whose fault it is where they fail."""

from prometheus_client.parser import text_string_to_metric_families

from evaluation import Catalog
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import Status
from service.jobs.store import MAX_FAILURES, Store
from service.metrics import Metrics
from tests.server import until
from tests.service.jobs.dispatching import Threads, plan_of, read

NAMES = ("shard_seconds_count", "shard_failures_total", "image_passes_total", "busy_seconds_total")


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.page({}).decode())
    found = (each for family in families for each in family.samples)
    return {
        (name, *(value for _, value in sorted(each.labels.items()))): each.value
        for each in found
        for name in NAMES
        if each.name == f"withstand_{name}"
    }


def test_shards_are_counted_by_model_device_and_fault(store: Store, catalog: Catalog) -> None:
    metrics = Metrics()
    with Threads() as threads:
        dispatcher = Dispatcher(store, catalog, lambda: {"cpu:0": threads}, metrics=metrics)
        dispatcher.start()
        plan = plan_of(catalog, images=10)
        store.submit(plan)
        until(lambda: read(store, plan).status is Status.DONE)
        (result,) = store.results(plan.id)
        other = plan_of(catalog, images=11)
        broken = other.model_copy(update={"id": "broken", "model_sha256": {"tiny": "0" * 64}})
        store.submit(broken)
        until(lambda: read(store, broken).status is Status.FAILED)
        dispatcher.stop()
    found = samples(metrics)
    assert found.pop(("busy_seconds_total", "cpu:0")) > result.seconds
    assert found == {
        ("shard_seconds_count", "clean", "tiny"): 1,
        ("image_passes_total", "cpu:0", "tiny"): result.images_forwarded,
        ("shard_failures_total", "shard"): MAX_FAILURES,
    }
