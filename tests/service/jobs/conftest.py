"""A store of its own for each test, and dispatchers that share it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path

import pytest

from evaluation import Catalog
from service.jobs.dispatcher import Dispatcher
from service.jobs.store import Store
from tests.service.jobs.dispatching import Start, Threads


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    opened = Store.at(database)
    yield opened
    opened.close()


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads() as executor:
        yield executor


@pytest.fixture
def start(store: Store, catalog: Catalog, database: Path) -> Iterator[Start]:
    """Start dispatchers that share a store and a lock file; all are stopped at the end."""
    started: list[Dispatcher] = []

    def start(executors: Mapping[str, Executor], where: Catalog = catalog) -> Dispatcher:
        dispatcher = Dispatcher(store, where, executors, database.with_name("dispatcher.lock"))
        dispatcher.start()
        started.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in started:
        dispatcher.stop()
