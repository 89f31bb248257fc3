"""The open inference protocol (KServe V2, REST), so that its clients, such as tritonclient, work as they are."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from torch import Tensor

from common.pictures import PictureError
from models import CheckpointError
from service.http.bodies.json_bodies import INLINE_BYTES, described, read_body
from service.http.bodies.picture_uploads import require_few_pixels
from service.http.deps import Asked, DeploymentDep, Service, ServiceDep, caller_of, find_deployment, service_of
from service.http.direct import describe_parameters, read_parameters
from service.http.disconnect import unless_disconnected
from service.http.middleware.telemetry import server_timing
from service.http.problems import ProblemError
from service.http.routes.health import require_ready
from service.kserve import tensors
from service.kserve.protocol import Sent, answer, inputs_of, outputs_of, read_request
from service.kserve.schemas import (
    Count,
    InferenceStats,
    InferRequest,
    InferResponse,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelStats,
    Ready,
    ServerMetadata,
    TensorConfig,
    VersionStats,
)
from service.kserve.tensors import Encoding
from service.serving.deployments import Deployment
from service.serving.errors import NotLoadedError
from service.serving.predictions import FieldError
from service.serving.queue import Answer

probes = APIRouter(prefix="/v2", tags=["open inference protocol"])
router = APIRouter(prefix="/v2", tags=["open inference protocol"])

PLATFORM = "pytorch"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
HEADER_BYTES = "Inference-Header-Content-Length"

INLINE_BINARY_BYTES = 2**22
"""A body with binary parts, which are not parsed, is read on the event loop up to this size."""

SMALL_BYTES = 2**10
"""Answers up to this size are not packed."""


@probes.get("")
async def server_metadata() -> ServerMetadata:
    """Tell what the server is, and which extensions of the protocol it has."""
    return ServerMetadata(name="withstand", version=version("withstand"), extensions=EXTENSIONS)


@probes.get("/health/live")
async def live() -> Live:
    """Answer as long as the process is alive."""
    return Live(live=True)


@probes.get("/health/ready")
def server_ready(service: ServiceDep) -> Ready:
    """Answer 200 when models can be found and the database can be read, whatever loads at the moment."""
    require_ready(service, Ready(ready=False))
    return Ready(ready=True)


@router.get("/models/stats")
def all_stats(service: ServiceDep) -> ModelStats:
    """Count the pictures of every version since the service started."""
    counted: list[VersionStats] = []
    for name in service.deployments.names():
        with suppress(CheckpointError):  # what cannot be loaded has answered nothing
            counted += [_stats(name, version, service) for version in service.deployments.versions(name)]
    return ModelStats(model_stats=counted)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model_metadata(deployment: DeploymentDep, service: ServiceDep) -> ModelMetadata:
    """Tell what a model takes and gives."""
    return ModelMetadata(
        name=deployment.name,
        versions=list(service.deployments.versions(deployment.name)),
        platform=PLATFORM,
        inputs=inputs_of(deployment),
        outputs=outputs_of(deployment),
    )


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
def model_ready(deployment: DeploymentDep, service: ServiceDep) -> Ready:
    """Answer 200 if the next picture would find the model in memory, else 503."""
    try:
        service.control.require_loaded(deployment)
    except NotLoadedError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), members=Ready(ready=False)) from error
    return Ready(ready=True)


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{version}/config")
async def model_config(deployment: DeploymentDep, service: ServiceDep) -> ModelConfig:
    """Tell what a model takes and gives, in the words of Triton's model configuration."""
    return ModelConfig(
        name=deployment.name,
        platform=PLATFORM,
        max_batch_size=service.settings.max_images,
        input=[TensorConfig.of(each) for each in inputs_of(deployment)],
        output=[TensorConfig.of(each) for each in outputs_of(deployment)],
    )


@router.get("/models/{name}/stats")
@router.get("/models/{name}/versions/{version}/stats")
def model_stats(deployment: DeploymentDep, service: ServiceDep) -> ModelStats:
    """Count the pictures of one version since the service started; `/metrics` has times, batches and causes."""
    return ModelStats(model_stats=[_stats(deployment.name, deployment.version, service)])


def _stats(name: str, version: str, service: Service) -> VersionStats:
    counts = service.metrics.outcomes(name, version)
    ok = counts.pop("ok", 0)
    return VersionStats(
        name=name,
        version=version,
        inference_count=ok,
        inference_stats=InferenceStats(success=Count(count=ok), fail=Count(count=sum(counts.values()))),
    )


_BODIES = {
    "application/json": {"schema": described(InferRequest)},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}
_BINARY = {HTTPStatus.OK: {"content": {"application/octet-stream": _BODIES["application/octet-stream"]}}}


def _described(*in_path: str) -> dict[str, Any]:
    parameters = describe_parameters(Asked, *in_path)
    extra = {"parameters": parameters, "requestBody": {"required": True, "content": _BODIES}}
    return {"response_model": InferResponse, "responses": _BINARY, "openapi_extra": extra}


@router.post("/models/{name}/infer", **_described("name"))
@router.post("/models/{name}/versions/{version}/infer", **_described("name", "version"))
async def infer(request: Request) -> Response:
    """Answer logits or probabilities for pictures, in JSON or with binary parts; bodies may be packed with gzip or deflate.

    The one input is `image`, BYTES [N], encoded pictures (in JSON: base64), or `pixels`, FP32 [N, 3, H, W] in [0, 1]. One picture
    that cannot be used makes the answer 422, which names it by its index. `parameters.timeout` is in microseconds.
    """
    service = service_of(request)
    deployment = await find_deployment(read_parameters(Asked, request), service)
    sent = await _read(request, service, deployment)
    require_few_pixels(sent.pictures, service.settings.request_pixels)
    key = caller_of(request).name
    work = service.scheduler.predict(deployment, sent.pictures, key=key, timeout_s=sent.timeout_s)
    answers = await unless_disconnected(request, work)
    head, parts = answer(sent.request, _logits(sent, answers), deployment)
    response = await _respond(head, parts, request.headers.get("accept-encoding", ""))
    response.headers.update(server_timing(answers))
    return response


async def _read(request: Request, service: Service, deployment: Deployment) -> Sent:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    header_bytes, settings = request.headers.get(HEADER_BYTES), service.settings

    def read(body: bytes) -> Sent:
        unpacked = tensors.inflate(body, encoding, max_bytes=settings.max_body_bytes)
        limits = {"max_images": settings.max_images, "max_pixels": settings.max_pixels}
        return read_request(unpacked, header_bytes, deployment, **limits)

    if encoding:
        return await read_body(request, read, inline_bytes=0)
    return await read_body(request, read, INLINE_BYTES if header_bytes is None else INLINE_BINARY_BYTES)


def _logits(sent: Sent, answers: Sequence[Answer | PictureError]) -> Tensor:
    """Logits (N, K) of the pictures.

    Raises:
        ProblemError: one of them could not be used (422).
    """
    errors = [
        FieldError(field=f"{sent.input_name}.{index}", message=str(each))
        for index, each in enumerate(answers)
        if isinstance(each, PictureError)
    ]
    if errors:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(str, errors)), errors=errors)
    return torch.stack([each.logits for each in answers if isinstance(each, Answer)])


async def _respond(head: InferResponse, parts: list[bytes], accepted: str) -> Response:
    """Send JSON with the binary parts behind it, packed if the client asked for that and it is worth it."""
    json = head.model_dump_json(exclude_none=True).encode()
    body, headers = b"".join((json, *parts)), {"Vary": "Accept-Encoding"}
    if any(parts):
        headers[HEADER_BYTES] = str(len(json))
    encoding = _first_accepted(accepted)
    if encoding and len(body) > SMALL_BYTES:
        body = await asyncio.to_thread(tensors.deflate, body, encoding)
        headers["Content-Encoding"] = encoding
    media_type = "application/octet-stream" if any(parts) else "application/json"
    return Response(body, media_type=media_type, headers=headers)


def _first_accepted(header: str) -> Encoding | None:
    """Read `Accept-Encoding`: the first packing that we have, unless its weight is zero."""
    for each in header.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name in ("gzip", "deflate") and (not weight or weight.strip("0.")):
            return name
    return None
