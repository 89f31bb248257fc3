"""The client against the real server."""

import socket
from collections.abc import Iterator

import pytest

from cli.client import Client, ClientError
from evaluation import Report
from tests.server import Server

NOWHERE = "c0ffee" * 2 + "cafe"
"""An id that no test submits."""

SPEC = {"models": ["tiny"], "dataset": "shapes", "images": 3}


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address on which nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_an_evaluation_is_submitted_watched_and_read(client: Client) -> None:
    assert client.ready()
    submitted = client.submit(SPEC)
    *_, last = client.watch(submitted["id"])
    assert (last["id"], last["status"]) == (submitted["id"], "done")
    assert Report.model_validate(client.evaluation(submitted["id"])["report"]).complete


def test_a_problem_becomes_an_error_with_its_reason(client: Client) -> None:
    with pytest.raises(ClientError, match=r"422: unknown model 'tinny'. Did you mean 'tiny'\?"):
        client.submit(SPEC | {"models": ["tinny"]})
    with pytest.raises(ClientError, match=f"404: there is no evaluation '{NOWHERE}'"):
        client.evaluation(NOWHERE)
    with pytest.raises(ClientError, match=f"404: there is no evaluation '{NOWHERE}'"):
        list(client.watch(NOWHERE))


def test_an_address_where_the_service_is_not_is_an_error(server: Server) -> None:
    with Client(f"{server.url}/static") as lost, pytest.raises(ClientError, match=r"40[45]: "):
        lost.submit(SPEC)


def test_nobody_there_is_an_error(deaf: str) -> None:
    with Client(deaf, timeout_s=5) as client:
        assert not client.ready()
        with pytest.raises(ClientError, match=f"no answer from {deaf}"):
            client.submit(SPEC)
        with pytest.raises(ClientError, match="the connection to the service broke"):
            list(client.watch(NOWHERE))
