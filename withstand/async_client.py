"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from withstand import routes
from withstand.answers import EvaluationView
from withstand.connection import PATIENCE_S, TIMEOUT_S, connection
from withstand.errors import ClientError, checked, reaching
from withstand.events import SILENCE_S, EventStream
from withstand.jobs import AsyncJob
from withstand.methods import ClientMethods
from withstand.request import Request, Result
from withstand.retries import Backoff
from withstand.routes import Wishes


class AsyncClient(ClientMethods):
    """A connection to a running service for asyncio; it takes and does the same as `Client`."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        self.url, self.patience_s = url, patience_s
        self._http = httpx.AsyncClient(**connection(url, api_key, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, request: Request[Result]) -> Result:
        """Send a request, and give what its answer says.

        Raises:
            ClientError: the service refused, or did not answer.
        """
        backoff = Backoff(self.patience_s if request.may_repeat else 0)
        while True:
            try:
                with request.arguments() as arguments, reaching(self.url):
                    answer = await self._http.request(**arguments)
                return request.read(checked(answer))
            except ClientError as error:
                await asyncio.sleep(backoff.pause_s(error))

    async def ready(self) -> bool:
        """Whether the service is ready for requests."""
        try:
            await self.send(routes.readiness())
        except ClientError:
            return False
        return True

    async def evaluations(self, search: str = "") -> list[EvaluationView]:
        """List all evaluations, or those in which every word of a search occurs, the newest first."""
        page = await self.evaluations_page(limit=200, search=search)
        found = page["evaluations"]
        while page["next_cursor"] is not None:
            page = await self.evaluations_page(limit=200, cursor=page["next_cursor"], search=search)
            found += page["evaluations"]
        return found

    async def evaluate(
        self, spec: Mapping[str, Any], *, preset: str | None = None, **wishes: Unpack[Wishes]
    ) -> AsyncJob:
        """Submit an evaluation as `submit` does; gives a job to wait for."""
        return AsyncJob(self, await self.submit(spec, preset=preset, **wishes))

    async def job(self, evaluation_id: str) -> AsyncJob:
        """Find an evaluation that was submitted before."""
        return AsyncJob(self, await self.evaluation(evaluation_id))

    async def watch(self, evaluation_id: str) -> AsyncIterator[EvaluationView]:
        """Yield the state of an evaluation after every change, until it has ended; reconnects when the connection breaks.

        Raises:
            ClientError: the service refused, or could not be reached again.
        """
        stream = EventStream(evaluation_id, self.patience_s)
        while not stream.ended:
            try:
                with reaching(self.url):
                    async with self._http.stream(
                        "GET", stream.path, headers=stream.headers(), timeout=SILENCE_S
                    ) as answer:
                        if answer.is_error:
                            await answer.aread()
                        async for line in checked(answer).aiter_lines():
                            if (state := stream.state_in(line)) is not None:
                                yield state
                stream.require_end()
            except ClientError as error:
                await asyncio.sleep(stream.pause_s(error))
