"""Evaluations that were submitted: waited for, read, stopped."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from withstand.answers import EvaluationView, Status
from withstand.events import require_done
from withstand.methods import JobMethods
from withstand.progress import progress_shown
from withstand.request import Request, Result

if TYPE_CHECKING:
    from withstand.async_client import AsyncClient
    from withstand.client import Client


class Job(JobMethods):
    """An evaluation of a service.

    Args:
        client: of the service.
        state: of the evaluation when it was submitted or found.
    """

    def __init__(self, client: "Client", state: EvaluationView) -> None:
        self._client, self.id, self.links = client, state["id"], state["links"]

    def send(self, request: Request[Result]) -> Result:
        """Send a request to the service."""
        return self._client.send(request)

    @property
    def status(self) -> Status:
        """Where the evaluation stands, asked for now."""
        return self.read()["status"]

    def wait(self, *, progress: bool = False) -> EvaluationView:
        """Wait until the evaluation is done, and give its last state.

        Args:
            progress: show on standard error how far it is.

        Raises:
            ClientError: it failed or was cancelled, or the service could not be reached any more.
        """
        state = self.read()
        with progress_shown(wanted=progress) as show:
            for state in self._client.watch(self.id):
                show(state["progress"])
        require_done(state)
        return state

    def to_frame(self) -> Any:
        """Give `rows()` as a pandas DataFrame; raises ModuleNotFoundError without pandas."""
        return _frame(self.rows())


class AsyncJob(JobMethods):
    """An evaluation of a service for asyncio; it takes and does the same as `Job`."""

    def __init__(self, client: "AsyncClient", state: EvaluationView) -> None:
        self._client, self.id, self.links = client, state["id"], state["links"]

    async def send(self, request: Request[Result]) -> Result:
        """Send a request to the service."""
        return await self._client.send(request)

    async def status(self) -> Status:
        """Ask where the evaluation stands."""
        return (await self.read())["status"]

    async def wait(self, *, progress: bool = False) -> EvaluationView:
        """Wait until the evaluation is done, as `Job.wait` does."""
        state = await self.read()
        with progress_shown(wanted=progress) as show:
            async for state in self._client.watch(self.id):
                show(state["progress"])
        require_done(state)
        return state

    async def to_frame(self) -> Any:
        """Give `rows()` as a pandas DataFrame; raises ModuleNotFoundError without pandas."""
        return _frame(await self.rows())


def _frame(rows: list[dict[str, Any]]) -> Any:
    try:
        pandas: Any = import_module("pandas")  # most people do without it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("to_frame() needs pandas: uv pip install '.[pandas]'; rows() does without") from error
    return pandas.DataFrame.from_records(rows)
