"""The client without asyncio."""

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from withstand import routes
from withstand.answers import EvaluationView
from withstand.connection import PATIENCE_S, TIMEOUT_S, connection
from withstand.errors import ClientError, checked, reaching
from withstand.events import SILENCE_S, EventStream
from withstand.jobs import Job
from withstand.methods import ClientMethods
from withstand.request import Request, Result
from withstand.retries import Backoff
from withstand.routes import Wishes


class Client(ClientMethods):
    """A connection to a running service.

    Requests that may be repeated are tried again after connection errors and the statuses 429, 502, 503 and 504.

    Args:
        url: its address, such as "http://127.0.0.1:8000", or "https://example.org/prefix" behind a reverse proxy.
        api_key: sent with every request, if there is one.
        timeout_s: longest silence during one try, seconds.
        patience_s: how long a request is tried again, seconds; 0 never.

    Raises:
        ValueError: the address is none.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        self.url, self.patience_s = url, patience_s
        self._http = httpx.Client(**connection(url, api_key, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, request: Request[Result]) -> Result:
        """Send a request, and give what its answer says.

        Raises:
            ClientError: the service refused, or did not answer.
        """
        backoff = Backoff(self.patience_s if request.may_repeat else 0)
        while True:
            try:
                with request.arguments() as arguments, reaching(self.url):
                    answer = self._http.request(**arguments)
                return request.read(checked(answer))
            except ClientError as error:
                time.sleep(backoff.pause_s(error))

    def ready(self) -> bool:
        """Whether the service is ready for requests."""
        try:
            self.send(routes.readiness())
        except ClientError:
            return False
        return True

    def evaluations(self, search: str = "") -> list[EvaluationView]:
        """List all evaluations, or those in which every word of a search occurs, the newest first."""
        page = self.evaluations_page(limit=200, search=search)
        found = page["evaluations"]
        while page["next_cursor"] is not None:
            page = self.evaluations_page(limit=200, cursor=page["next_cursor"], search=search)
            found += page["evaluations"]
        return found

    def evaluate(self, spec: Mapping[str, Any], *, preset: str | None = None, **wishes: Unpack[Wishes]) -> Job:
        """Submit an evaluation as `submit` does; gives a job to wait for."""
        return Job(self, self.submit(spec, preset=preset, **wishes))

    def job(self, evaluation_id: str) -> Job:
        """Find an evaluation that was submitted before."""
        return Job(self, self.evaluation(evaluation_id))

    def watch(self, evaluation_id: str) -> Iterator[EvaluationView]:
        """Yield the state of an evaluation after every change, until it has ended; reconnects when the connection breaks.

        Raises:
            ClientError: the service refused, or could not be reached again.
        """
        stream = EventStream(evaluation_id, self.patience_s)
        while not stream.ended:
            try:
                with (
                    reaching(self.url),
                    self._http.stream("GET", stream.path, headers=stream.headers(), timeout=SILENCE_S) as answer,
                ):
                    if answer.is_error:
                        answer.read()
                    for line in checked(answer).iter_lines():
                        if (state := stream.state_in(line)) is not None:
                            yield state
                stream.require_end()
            except ClientError as error:
                time.sleep(stream.pause_s(error))
