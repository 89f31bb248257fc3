"""Models into memory and out of it, as clients of the open inference protocol ask for it."""

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request

from models import CheckpointError
from service.http.bodies.json_bodies import described, read_json
from service.http.deps import DeploymentDep, ModelName, Service, ServiceDep, require_admin
from service.kserve.schemas import Done, IndexEntry, IndexRequest, RepositoryRequest
from service.kserve.tensors import TensorError
from service.serving.deployments import Deployment

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])

_ADMIN = [Depends(require_admin)]
_UNLOADED = "not in memory; a load, or the next picture, loads it"


def _body(kind: type[IndexRequest] | type[RepositoryRequest]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": described(kind)}}}}


@router.post("/index", openapi_extra=_body(IndexRequest))
async def index(request: Request, service: ServiceDep) -> list[IndexEntry]:
    """List every version of every model: READY if it is in memory, else UNAVAILABLE with the reason."""
    asked = read_json(IndexRequest, await request.body() or b"{}")
    entries = await asyncio.to_thread(_index, service)  # a new checkpoint is hashed
    return [each for each in entries if each.state == "READY" or not asked.ready]


def _index(service: Service) -> list[IndexEntry]:
    return [entry for name in service.deployments.names() for entry in _entries(service, name)]


def _entries(service: Service, name: str) -> list[IndexEntry]:
    try:
        versions = service.deployments.versions(name)
    except CheckpointError as error:
        return [IndexEntry(name=name, version="", state="UNAVAILABLE", reason=str(error))]
    return [_entry(service, name, version) for version in versions]


def _entry(service: Service, name: str, version: str) -> IndexEntry:
    try:
        loaded = bool(service.control.loaded_on(service.deployments.find(name, version)))
    except CheckpointError as error:
        return IndexEntry(name=name, version=version, state="UNAVAILABLE", reason=str(error))
    if loaded:
        return IndexEntry(name=name, version=version, state="READY", reason="")
    return IndexEntry(name=name, version=version, state="UNAVAILABLE", reason=_UNLOADED)


@router.post("/models/{name}/load", dependencies=_ADMIN, openapi_extra=_body(RepositoryRequest))
async def load(request: Request, service: ServiceDep, deployment: DeploymentDep) -> Done:
    """Load a version of a model into memory and warm it; answers once that is done."""
    asked = read_json(RepositoryRequest, await request.body() or b"{}").parameters
    refused = [name for name in asked if name == "config" or name.startswith("file:")]
    if refused:
        raise TensorError(
            f"parameters: {', '.join(refused)[:100]} cannot be sent with a load; PUT /v1/models/{deployment.name}/serving changes "
            "how a model is served, POST /v1/models adds one"
        )
    await service.control.load(deployment)
    return Done()


@router.post("/models/{name}/unload", dependencies=_ADMIN, openapi_extra=_body(RepositoryRequest))
async def unload(request: Request, service: ServiceDep, name: ModelName) -> Done:
    """Take a model out of memory once what waits for it is answered: one version (`mine@2`), or all of them (`mine`)."""
    read_json(RepositoryRequest, await request.body() or b"{}")
    await asyncio.to_thread(_unload, service, name)
    return Done()


def _unload(service: Service, name: str) -> None:
    for each in _named(service, name):
        service.control.unload(each)


def _named(service: Service, name: str) -> list[Deployment]:
    model, _, version = name.partition("@")
    found = [version] if version else service.deployments.versions(model)
    return [service.deployments.find(model, each) for each in found]
