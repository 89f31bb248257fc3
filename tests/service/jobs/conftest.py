"""A store of its own for each test, on each kind of database, and dispatchers that share it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path

import pytest

from evaluation import Catalog
from service.jobs.dispatcher import Dispatcher
from service.jobs.store import Store
from tests.postgresql import Postgresql, postgresql
from tests.service.jobs.dispatching import Start, Threads

__all__ = ["postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """Where a new database can be: a file, and a URL."""
    if request.param == "sqlite":
        yield tmp_path / "withstand.db"
    else:
        server: Postgresql = request.getfixturevalue("postgresql")
        with server.database() as url:
            yield url


@pytest.fixture
def store(database: Path | str) -> Iterator[Store]:
    opened = Store.at(database)
    yield opened
    opened.close()


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads() as executor:
        yield executor


@pytest.fixture
def start(store: Store, catalog: Catalog) -> Iterator[Start]:
    """Start dispatchers that share a store; all are stopped at the end."""
    started: list[Dispatcher] = []

    def start(executors: Mapping[str, Executor], where: Catalog = catalog) -> Dispatcher:
        dispatcher = Dispatcher(store, where, executors)
        dispatcher.start()
        started.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in started:
        dispatcher.stop()
