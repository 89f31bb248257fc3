"""What routes need, by name."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, cast

from fastapi import Depends, Path, Request
from pydantic import BaseModel, Field, StringConstraints

from evaluation import Catalog
from evaluation.spec import NAME_PATTERN
from service.accounts.callers import Caller, Callers
from service.accounts.keys import Scope
from service.http.access.scopes import refusal
from service.http.dataset_counts import DatasetCounts
from service.http.model_structures import ModelStructures
from service.http.pages.report_sections import ReportSections
from service.http.pages.result_rows import ResultRows
from service.http.problems import ProblemError
from service.http.watching import Watching
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import Evaluation
from service.jobs.queries import DamagedEvaluationError
from service.jobs.queue import Queue
from service.jobs.reports.counted import Reports
from service.jobs.reports.measurements import Measurements
from service.jobs.store import Store
from service.metrics import Metrics
from service.serving.control import Control
from service.serving.deployments import Deployment, Deployments
from service.serving.pictures.explainer import Explainer
from service.serving.scheduler import Scheduler
from service.settings import Settings


@dataclass(frozen=True)
class Service:
    """The parts of a running service; `app.py` builds it."""

    settings: Settings
    callers: Callers
    catalog: Catalog
    store: Store
    queue: Queue
    dispatcher: Dispatcher
    deployments: Deployments
    scheduler: Scheduler
    control: Control
    explainer: Explainer
    metrics: Metrics
    device: str
    dataset_counts: DatasetCounts
    model_structures: ModelStructures
    measurements: Measurements
    reports: Reports
    report_sections: ReportSections
    result_rows: ResultRows
    watching: Watching

    @property
    def evaluating_device(self) -> str:
        """A device like those that compute evaluations, for which they are cut: of the cluster, if there is one.

        Among several kinds it is a CPU, for which the shards of a GPU would be too long.
        """
        if self.settings.ray_address is None:
            return self.device
        there = [each.name.rpartition("/")[2] for each in self.queue.devices()]
        on_gpu = all(each.startswith("cuda") for each in there) if there else self.settings.ray_max_gpus is not None
        return "cuda" if on_gpu else "cpu"


def service_of(request: Request) -> Service:
    """The service that answers a request."""
    return cast(Service, request.app.state.service)


async def _service(request: Request) -> Service:  # a plain function would be called on another thread
    return service_of(request)


ServiceDep = Annotated[Service, Depends(_service)]
ModelName = Annotated[
    str, Path(pattern=NAME_PATTERN, description="name of a model, with or without a version: `mine@2`")
]
ModelVersion = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"),
    Field(description="by default the one of the name, or the default one"),
]
DatasetName = Annotated[str, Path(pattern=NAME_PATTERN, description="name of a data set")]
EvaluationId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="id of an evaluation, 16 hexadecimal digits")]


def caller_of(request: Request) -> Caller:
    """Who sends a request, as its API key says."""
    return cast(Caller, request.scope["caller"])


async def _caller(request: Request) -> Caller:
    return caller_of(request)


CallerDep = Annotated[Caller, Depends(_caller)]


async def require_admin(caller: CallerDep) -> None:
    """Let a request pass that may change what is served.

    Raises:
        ProblemError: the key may not (403).
    """
    if not caller.is_admin:
        raise ProblemError(HTTPStatus.FORBIDDEN, refusal(caller, Scope.ADMIN))


class Asked(BaseModel):
    """Which model a prediction is asked of."""

    name: ModelName
    version: ModelVersion | None = None


async def find_deployment(asked: Asked, service: Service) -> Deployment:
    """Look up what answers for a name.

    Raises:
        UnknownNameError: there is no such model or version.
        CheckpointError: its card or its settings file is not usable.
    """
    known = service.deployments.known(asked.name, asked.version)
    return known or await asyncio.to_thread(service.deployments.find, asked.name, asked.version)  # it may be hashed


async def _deployment(name: ModelName, service: ServiceDep, version: ModelVersion | None = None) -> Deployment:
    return await find_deployment(Asked.model_construct(name=name, version=version), service)


DeploymentDep = Annotated[Deployment, Depends(_deployment)]
"""The model of a path with `{name}`, its version from `{version}` or, in a path without, from the query."""


def find_evaluation(evaluation_id: EvaluationId, service: ServiceDep, caller: CallerDep) -> Evaluation:
    """Look up an evaluation.

    Raises:
        ProblemError: there is none, or it is another caller's (404).
    """
    seen = caller.owner is None or service.store.is_owned(evaluation_id, caller.owner)
    found = service.store.evaluation(evaluation_id) if seen else None
    if found is None:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"there is no evaluation {evaluation_id!r}; GET /v1/evaluations lists them"
        )
    return found


EvaluationDep = Annotated[Evaluation, Depends(find_evaluation)]


def _find_even_damaged(
    evaluation_id: EvaluationId, service: ServiceDep, caller: CallerDep
) -> Evaluation | DamagedEvaluationError:
    """Look up an evaluation that is to be cancelled or removed, for which its plan need not be readable."""
    try:
        return find_evaluation(evaluation_id, service, caller)
    except DamagedEvaluationError as error:
        return error


EvenDamagedDep = Annotated[Evaluation | DamagedEvaluationError, Depends(_find_even_damaged)]
