"""A cluster that tests share; each starts and ends what it needs beside its head."""

from collections.abc import Iterator
from threading import Event

import pytest

import service.cluster.cluster
from service.cluster.cluster import RayCluster
from service.cluster.content import ContentStore
from tests.server import until
from tests.service.cluster.nodes import Nodes, connected, started


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster's head, which computes too."""
    with started() as empty:
        empty.start_head()
        yield empty


@pytest.fixture(scope="module")
def wanted() -> Event:
    """Set while tests want the connection that they share."""
    return Event()


@pytest.fixture(scope="module")
def connection(nodes: Nodes, wanted: Event, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A connection to the cluster, with a store from which its nodes get their files, and calls of at most six seconds."""
    folder = tmp_path_factory.mktemp("cluster")
    store = ContentStore(str(folder / "store"))
    with (
        pytest.MonkeyPatch.context() as quick,
        connected(nodes.head, folder / "cache", wanted, store=store, timeout_s=6.0) as cluster,
    ):
        for name, seconds in (("SILENCE_S", 5.0), ("FIRST_PAUSE_S", 0.2), ("LONGEST_PAUSE_S", 0.2)):
            quick.setattr(service.cluster.cluster, name, seconds)
        yield cluster


@pytest.fixture
def cluster(connection: RayCluster, wanted: Event) -> RayCluster:
    """That connection, with the two devices of the head."""
    wanted.set()
    until(lambda: len(connection.executors()) == 2)
    return connection
