"""Ray's own autoscaler starts a node as shards wait, and removes it when nothing is left to do."""

from pathlib import Path

import pytest

import evaluation.plan
from evaluation import Catalog
from service.jobs.evaluations import Status
from service.jobs.queue import Queue
from service.jobs.store import Store
from tests.server import until
from tests.service.cluster.nodes import connected, started
from tests.service.cluster.test_cluster import BY_MAKE_FAULTS, dispatching
from tests.service.jobs.dispatching import plan_of, read
from tests.service.jobs.stores import on_sqlite

pytestmark = [pytest.mark.slow, BY_MAKE_FAULTS, pytest.mark.timeout(400)]

MOST = 1
PATIENCE_S = 120


@on_sqlite
def test_a_node_comes_as_shards_wait_and_goes_when_none_is_left(
    store: Store, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 11)
    plan = plan_of(catalog, models=["tiny", "twin"])
    assert len(plan.shards) > MOST
    queue = Queue(store)

    def demand() -> int:
        return min(MOST, queue.useful_devices())

    with started() as nodes:
        nodes.start_autoscaling_head(MOST + 1)
        with connected(nodes.head, tmp_path / "cache", demand=demand) as cluster, dispatching(store, catalog, cluster):
            store.submit(plan)
            until(lambda: len(cluster.executors()) == MOST, PATIENCE_S)
            assert nodes.raylets() == 1 + MOST
            (device,) = cluster.executors()
            assert device.endswith("/cuda:0")
            until(lambda: read(store, plan).status.final, PATIENCE_S)
            assert read(store, plan).status is Status.DONE
            until(lambda: not cluster.executors(), PATIENCE_S)
            until(lambda: nodes.raylets() == 1, PATIENCE_S)
