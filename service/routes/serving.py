"""How models are served: versions, settings, what is in memory."""

import asyncio
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from service.deployments import Agreement, Deployment, ServingSettings
from service.deps import ModelName, Service, ServiceDep, require_admin
from service.errors import ServiceError

router = APIRouter(prefix="/v1/models", tags=["serving"])

_ADMIN = [Depends(require_admin)]


class VersionView(BaseModel):
    """One version of a model."""

    version: str
    checkpoint: str
    sha256: Annotated[
        str, Field(description="of what decides its answers: checkpoint, architecture, classes, preprocessing")
    ]
    loaded_on: Annotated[list[str], Field(description="devices of this process that hold it")]


class ServingView(BaseModel):
    """How a model is served."""

    name: str
    default_version: str
    versions: list[VersionView]
    settings: ServingSettings
    agreement: Annotated[
        Agreement | None,
        Field(description="of the precision with float32, on images of the model's data set; null if not measured"),
    ]


@router.get("/{name}/serving")
async def read_serving(name: ModelName, service: ServiceDep) -> ServingView:
    """Read how a model is served: its versions and which answers by default, its settings, what is in memory."""
    return _view(service, service.deployments.find(name))


@router.put("/{name}/serving", dependencies=_ADMIN)
async def configure(name: ModelName, settings: ServingSettings, service: ServiceDep) -> ServingView:
    """Change how a model is served, of all its versions; what waits is answered as it was asked.

    A precision other than float32 is first held against float32 on 200 images of the model's own data set, where there is one,
    and refused if more than 2 % of the top-1 classes differ.
    """
    model = service.deployments.find(name).name
    return _view(service, await asyncio.to_thread(service.fleet.configure, model, settings))


@router.post("/{name}/load", dependencies=_ADMIN)
async def load(name: ModelName, service: ServiceDep) -> ServingView:
    """Load a version into memory and warm it; answers once that is done. Models load by themselves at their first picture."""
    deployment = service.deployments.find(name)
    await service.fleet.load(deployment)
    return _view(service, deployment)


@router.post("/{name}/unload", dependencies=_ADMIN)
async def unload(name: ModelName, service: ServiceDep) -> ServingView:
    """Take a version out of memory once what waits for it is answered. The next picture loads it again."""
    deployment = service.deployments.find(name)
    service.fleet.unload(deployment)
    return _view(service, deployment)


@router.get("/{name}/ready")
async def ready(name: ModelName, service: ServiceDep) -> ServingView:
    """Answer 200 if the next picture would find the model in memory, else 503."""
    deployment = service.deployments.find(name)
    if not service.fleet.loaded_on(deployment):
        raise ServiceError(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{name} is not in memory; POST .../load, or the next picture, loads it"
        )
    return _view(service, deployment)


def _view(service: Service, deployment: Deployment) -> ServingView:
    found = [
        service.deployments.find(deployment.name, version) for version in service.deployments.versions(deployment.name)
    ]
    versions = [
        VersionView(
            version=each.version,
            checkpoint=each.checkpoint,
            sha256=each.sha256,
            loaded_on=service.fleet.loaded_on(each),
        )
        for each in found
    ]
    default = service.deployments.find(deployment.name)
    return ServingView(
        name=default.name,
        default_version=default.version,
        versions=versions,
        settings=default.settings,
        agreement=service.deployments.agreement(default.name),
    )
