"""Fixtures that run commands and the service, and a store of its own for each test, on each kind of database."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.store import Store
from tests.command import here, run
from tests.postgresql import Postgresql, postgresql
from tests.server import fresh, http, server, settings
from tests.service.held import forwarded, held
from tests.spans import exporter

__all__ = ["exporter", "forwarded", "fresh", "held", "here", "http", "postgresql", "run", "server", "settings"]


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
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let device processes begin from the environment and the streams of a test: a fork server has those it was started with."""
    monkeypatch.setattr("service.jobs.executors.CONTEXT", multiprocessing.get_context("spawn"))
    monkeypatch.setattr("service.jobs.executors.start_fork_server", lambda: None)
