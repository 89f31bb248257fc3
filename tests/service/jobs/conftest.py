"""A store of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.store import Store


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    opened = Store.at(database)
    yield opened
    opened.close()
