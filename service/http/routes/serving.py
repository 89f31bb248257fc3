"""How models are served: versions, settings, what is in memory."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from service.http.deps import DeploymentDep, Service, ServiceDep, require_admin
from service.serving.deployments import Measured, ServingSettings

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


class ServingView(Measured):
    """How a model is served."""

    name: str
    default_version: str
    versions: list[VersionView]
    settings: ServingSettings


@router.get("/{name}/serving")
def read_serving(deployment: DeploymentDep, service: ServiceDep) -> ServingView:
    """Read how a model is served: its versions and which answers by default, its settings, what is in memory."""
    return _view(service, deployment.name)


@router.put("/{name}/serving", dependencies=_ADMIN)
def configure(deployment: DeploymentDep, settings: ServingSettings, service: ServiceDep) -> ServingView:
    """Change how a model is served, of all its versions; what waits is answered as it was asked.

    A precision other than float32 is first compared with float32 on 200 images of the model's own data set, where there is one,
    and refused if more than 2 % of the top-1 classes differ; so is nvJPEG, compared with the decoder of evaluations.
    """
    service.scheduler.configure(deployment.name, settings)
    return _view(service, deployment.name)


@router.post("/{name}/load", dependencies=_ADMIN)
async def load(deployment: DeploymentDep, service: ServiceDep) -> ServingView:
    """Load a version into memory and warm it; answers once that is done. Models load by themselves at their first picture."""
    await service.control.load(deployment)
    return await asyncio.to_thread(_view, service, deployment.name)


@router.post("/{name}/unload", dependencies=_ADMIN)
def unload(deployment: DeploymentDep, service: ServiceDep) -> ServingView:
    """Take a version out of memory once what waits for it is answered. The next picture loads it again."""
    service.control.unload(deployment)
    return _view(service, deployment.name)


@router.get("/{name}/ready")
def ready(deployment: DeploymentDep, service: ServiceDep) -> ServingView:
    """Answer 200 if the next picture would find the model in memory, else 503."""
    service.control.require_loaded(deployment)
    return _view(service, deployment.name)


def _view(service: Service, name: str) -> ServingView:
    deployments, control = service.deployments, service.control
    found = [deployments.find(name, version) for version in deployments.versions(name)]
    versions = [
        VersionView(
            version=each.version, checkpoint=each.checkpoint, sha256=each.sha256, loaded_on=control.loaded_on(each)
        )
        for each in found
    ]
    default = deployments.find(name)
    return ServingView(
        name=name,
        default_version=default.version,
        versions=versions,
        settings=default.settings,
        **dict(deployments.measured(name)),
    )
