"""One picture: what a model's attention weighs in it, and what the model says of it turned, flipped and attacked."""

from collections.abc import Callable
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from torch import Tensor

from attacks import Norm, PixelScale, ThreatModel
from common.pictures import PictureError
from models import Place, scaled
from service.http.bodies.picture_uploads import decode, read_uploads
from service.http.deps import DeploymentDep, Service, ServiceDep
from service.http.problems import LONGEST_ECHO, ProblemError
from service.serving.deployments import Deployment
from service.serving.pictures.explainer import Explanation, parse_point
from service.serving.pictures.trial import Trial
from service.serving.predictions import FieldError

Answer = TypeVar("Answer")

router = APIRouter(prefix="/v1/models", tags=["models"])

_FILE = {"type": "string", "format": "binary"}
_FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE}}}
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": _FORM, "image/*": {"schema": _FILE}}}
}


class ExplanationFormat(StrEnum):
    """How an explanation is answered."""

    JSON = "json"
    PNG = "png"


@router.post(
    "/{name}/explain",
    response_model=Explanation,
    responses={200: {"content": {"image/png": {"schema": _FILE}}}},
    openapi_extra=_BODY,
)
async def explain(
    deployment: DeploymentDep,
    request: Request,
    service: ServiceDep,
    layer: Annotated[str | None, Query(description="path of an attention layer; the last one by default")] = None,
    query: Annotated[
        str | None, Query(description="whose attention: `y,x`, fractions of the picture that the model sees")
    ] = None,
    format: Annotated[  # noqa: A002
        ExplanationFormat | None, Query(description="json or png; by default as `Accept` says, else json")
    ] = None,
) -> Response:
    """Show what an attention layer weighs in a picture: maps over the picture as the model sees it, resized and cropped.

    The answer holds numbers and overlays, or is one PNG to look at. Models with spatial attention can be explained; for
    any other model the error names the families that have it.
    """
    point = _point(query)

    def answer(image: Tensor, file: str) -> Response:
        explained = service.explainer.explain(deployment.checkpoint, image, file=file, layer=layer, query=point)
        if _wants_png(request, format):
            return Response(explained.as_png(), media_type="image/png")
        return Response(explained.as_json().model_dump_json(), media_type="application/json")

    return await _with_picture(request, deployment, service, answer)


@router.post("/{name}/try", openapi_extra=_BODY)
async def try_picture(
    deployment: DeploymentDep,
    request: Request,
    service: ServiceDep,
    eps: Annotated[PixelScale, Query(ge=1e-4, le=1, description="radius of PGD in Linf, such as 8/255")] = 8 / 255,
    steps: Annotated[int, Query(ge=1, le=100, description="steps of PGD")] = 10,
) -> Trial:
    """Classify a picture as it is, turned, flipped, and under PGD that leads away from the class it has as it is.

    Each version comes with the three most probable classes, as a picture, and with what the model's last attention layer weighs.
    """
    threat = ThreatModel(Norm.LINF, eps)

    def answer(image: Tensor, file: str) -> Trial:
        return service.explainer.try_picture(deployment.checkpoint, image, file=file, threat=threat, steps=steps)

    return await _with_picture(request, deployment, service, answer)


async def _with_picture(
    request: Request, deployment: Deployment, service: Service, answer: Callable[[Tensor, str], Answer]
) -> Answer:
    """Answer on the explainer's thread with the preprocessed picture of a request, and the name of its file."""
    (upload,) = await read_uploads(request, most=1)
    preprocessing, max_pixels = deployment.card.preprocessing, service.settings.max_pixels
    try:
        return await service.explainer.run(
            lambda: answer(scaled(decode(upload, preprocessing, max_pixels=max_pixels)), upload.name)
        )
    except PictureError as error:
        wrong = upload.wrong(error)
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(wrong), errors=[wrong]) from error


def _wants_png(request: Request, chosen: ExplanationFormat | None) -> bool:
    if chosen is None:
        return "image/png" in request.headers.get("accept", "")
    return chosen is ExplanationFormat.PNG


def _point(query: str | None) -> Place | None:
    try:
        return None if query is None else parse_point(query)
    except ValueError as wrong:
        error = FieldError(field="query", message=str(wrong), received=repr(query)[:LONGEST_ECHO])
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=[error]) from None
