"""Is the service there, and can it work?"""

from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from service.http.deps import Service, ServiceDep
from service.http.problems import ProblemError
from service.serving.errors import StuckError

probes = APIRouter(tags=["health"])
router = APIRouter(tags=["health"])


@probes.get("/healthz")
async def alive() -> dict[str, str]:
    """Answer as long as the process is alive: on the event loop, whatever threads and database do."""
    return {"status": "alive"}


@probes.get("/readyz")
def ready(service: ServiceDep) -> dict[str, str]:
    """Answer 200 when models can be found, threads are there to predict, and the database can be read."""
    require_ready(service)
    return {"status": "ready", "dispatcher": "active" if service.dispatcher.active.is_set() else "standby"}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(service: ServiceDep) -> Response:
    """Write what was measured, for Prometheus: requests, queues, batches, seconds by stage, memory, shards of evaluations."""
    page = service.metrics.page(service.queue.shard_counts())
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


def require_ready(service: Service, members: BaseModel | None = None) -> None:
    """Check that models can be found, threads are there to predict, and the database can be read.

    Args:
        service: which is asked.
        members: further ones of the error.

    Raises:
        ProblemError: there is no model, or every thread hangs (503).
        StoreError: the database cannot be read.
    """
    try:
        service.control.require_alive()
    except StuckError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), members=members) from error
    if not service.catalog.checkpoints():
        detail = "there is no model: add a checkpoint with its card"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, members=members)
    service.store.evaluations(limit=1)
