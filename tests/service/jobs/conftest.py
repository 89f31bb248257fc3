"""Dispatchers that share a store."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor

import pytest

from evaluation import Catalog
from service.jobs.dispatcher import Dispatcher
from service.jobs.queue import Queue
from service.jobs.store import Store
from tests.service.jobs.dispatching import Start, Threads


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads() as executor:
        yield executor


@pytest.fixture
def start(store: Store, catalog: Catalog) -> Iterator[Start]:
    """Start dispatchers that share a store; all are stopped at the end."""
    started: list[Dispatcher] = []

    def start(executors: Mapping[str, Executor], where: Catalog = catalog) -> Dispatcher:
        dispatcher = Dispatcher(store, where, lambda: executors)
        dispatcher.start()
        started.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in started:
        dispatcher.stop()
