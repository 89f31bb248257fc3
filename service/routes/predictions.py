"""Pictures in, classes out."""

from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from common.pictures import PictureError
from service.deployments import Deployment
from service.deps import KeyDep, ModelName, Service, ServiceDep
from service.errors import ServiceError
from service.gone import unless_gone
from service.images import ImagesRequest, Upload, decode, read_uploads
from service.lanes import Answer
from service.schemas import Prediction, Predictions, top_classes

router = APIRouter(prefix="/v1/models", tags=["predictions"])

_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": ["file"], "properties": {"file": {"type": "array", "items": _FILE}}}
_PICTURE = {"image/*": {"schema": _FILE}}
_PICTURES: dict[str, Any] = {
    "multipart/form-data": {"schema": _FORM},
    **_PICTURE,
    "application/json": {"schema": ImagesRequest.model_json_schema()},
}

TopK = Annotated[
    int | None, Query(ge=1, le=1000, description="classes to name; by default as the model's settings say")
]
Timeout = Annotated[float | None, Query(gt=0, description="longest wait for the answer, seconds; 504 after that")]


class LabelScore(BaseModel):
    """One class with its probability, as clients of the Hugging Face image classification task read it."""

    label: str
    score: float


@router.post(
    "/{name}/predict",
    response_model=Predictions,
    openapi_extra={"requestBody": {"required": True, "content": _PICTURES}},
)
async def predict(
    name: ModelName, request: Request, service: ServiceDep, key: KeyDep, top_k: TopK = None, timeout_s: Timeout = None
) -> Response:
    """Classify one or many pictures: a multipart form with fields `file`, the bytes of one picture, or base64 in JSON.

    A picture that cannot be decoded fails alone; where none can, the answer is 422. `Server-Timing` tells where the time went.
    """
    deployment = service.deployments.find(name)
    uploads = await read_uploads(request, most=service.settings.max_images)
    answers = await _ask(request, service, key, deployment, uploads, timeout_s)
    k = top_k or deployment.settings.top_k
    predictions = [
        Prediction(file=upload.name, error=upload.wrong(answer))
        if isinstance(answer, PictureError)
        else Prediction(file=upload.name, top=top_classes(answer.logits, deployment.card.classes, k))
        for upload, answer in zip(uploads, answers, strict=True)
    ]
    found = Predictions(model=deployment.name, version=deployment.version, predictions=predictions)
    return Response(found.model_dump_json(), media_type="application/json", headers=_timing(answers))


@router.post(
    "/{name}/classify",
    response_model=list[LabelScore],
    openapi_extra={"requestBody": {"required": True, "content": _PICTURE}},
)
async def classify(
    name: ModelName, request: Request, service: ServiceDep, key: KeyDep, top_k: TopK = None, timeout_s: Timeout = None
) -> list[LabelScore]:
    """Classify one picture; the answer is a bare list, as `huggingface_hub.InferenceClient.image_classification` expects."""
    deployment = service.deployments.find(name)
    uploads = await read_uploads(request, most=1)
    (answer,) = await _ask(request, service, key, deployment, uploads, timeout_s)
    k, classes = top_k or deployment.settings.top_k, deployment.card.classes
    top = top_classes(answer.logits, classes, k) if isinstance(answer, Answer) else []
    return [LabelScore(label=each.label, score=each.probability) for each in top]


async def _ask(
    request: Request,
    service: Service,
    key: str,
    deployment: Deployment,
    uploads: Sequence[Upload],
    timeout_s: float | None,
) -> list[Answer | PictureError]:
    preprocessing, max_pixels = deployment.card.preprocessing, service.settings.max_pixels
    pictures = [partial(decode, upload, preprocessing, max_pixels=max_pixels) for upload in uploads]
    work = service.fleet.predict(deployment, pictures, key=key, timeout_s=timeout_s)
    answers = await unless_gone(request, work)
    errors = [up.wrong(each) for up, each in zip(uploads, answers, strict=True) if isinstance(each, PictureError)]
    if len(errors) == len(answers):
        raise ServiceError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(str, errors)), errors=errors)
    return answers


def _timing(answers: Sequence[Answer | PictureError]) -> dict[str, str]:
    """Where the time of the slowest picture went, in milliseconds."""
    good = [each for each in answers if isinstance(each, Answer)]
    stages = {stage: max(getattr(each, f"{stage}_s") for each in good) for stage in ("queue", "preprocess", "forward")}
    return {"Server-Timing": ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in stages.items())}
