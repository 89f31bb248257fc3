"""The real client of the open inference protocol."""

from collections.abc import Iterator

import pytest
from tritonclient.http import InferenceServerClient

from tests.server import Server


@pytest.fixture
def triton(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client
