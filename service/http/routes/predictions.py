"""Pictures in, classes out."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from common.pictures import PictureError
from service.http.deps import DeploymentDep, KeyDep, Service, ServiceDep
from service.http.disconnect import unless_disconnected
from service.http.json_bodies import described, read_body, read_json
from service.http.middleware.telemetry import server_timing
from service.http.picture_uploads import (
    ImagesRequest,
    Upload,
    decode,
    media_type,
    pixels_to_decode,
    read_uploads,
    require_few_pixels,
    upload_from_base64,
)
from service.http.problems import ProblemError
from service.serving.deployments import Deployment
from service.serving.predictions import Prediction, Predictions, top_classes
from service.serving.queue import Answer, Picture

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


class ClassificationParameters(BaseModel):
    """How the Hugging Face image classification task wants its answer."""

    top_k: Annotated[int | None, Field(ge=1, le=1000, description="classes to name")] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, Field(description="makes scores of logits; null is softmax")
    ] = None


class ClassificationRequest(BaseModel):
    """A picture in JSON, as clients of that task send it where they have parameters."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[str, Field(description="the bytes of a picture in base64, also as a data URI")]
    parameters: ClassificationParameters = ClassificationParameters()


_CLASSIFICATION = {**_PICTURE, "application/json": {"schema": described(ClassificationRequest)}}
_SCORES: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda logits: logits.softmax(0),
    "softmax": lambda logits: logits.softmax(0),
    "sigmoid": Tensor.sigmoid,
    "none": lambda logits: logits,
}


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
    deployment: DeploymentDep,
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    top_k: TopK = None,
    timeout_s: Timeout = None,
) -> Response:
    """Classify one or many pictures: a multipart form with fields `file`, the bytes of one picture, or base64 in JSON.

    A picture that cannot be decoded fails alone; where none can, the answer is 422. `Server-Timing` tells where the time went.
    """
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
    return Response(found.model_dump_json(), media_type="application/json", headers=server_timing(answers))


@router.post(
    "/{name}/classify",
    response_model=list[LabelScore],
    openapi_extra={"requestBody": {"required": True, "content": _CLASSIFICATION}},
)
async def classify(
    deployment: DeploymentDep,
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    top_k: TopK = None,
    timeout_s: Timeout = None,
) -> list[LabelScore]:
    """Classify one picture; the answer is a bare list, as `huggingface_hub.InferenceClient.image_classification` expects."""
    upload, parameters = await _read_classification(request)
    (answer,) = await _ask(request, service, key, deployment, [upload], timeout_s)
    if isinstance(answer, PictureError):  # it would have been refused as the only one
        raise answer
    k = parameters.top_k or top_k or deployment.settings.top_k
    scores = _SCORES[parameters.function_to_apply](answer.logits)
    return _label_scores(scores, deployment.card.classes, k)


async def _read_classification(request: Request) -> tuple[Upload, ClassificationParameters]:
    if media_type(request.headers.get("content-type", "")) != "application/json":
        return (await read_uploads(request, most=1))[0], ClassificationParameters()
    return await read_body(request, _classification)


def _classification(sent: bytes) -> tuple[Upload, ClassificationParameters]:
    body = read_json(ClassificationRequest, sent)
    return upload_from_base64("inputs", body.inputs), body.parameters


def _label_scores(scores: Tensor, classes: Sequence[str], k: int) -> list[LabelScore]:
    """Name the k classes with the highest scores (K,), the highest first."""
    highest, indices = scores.topk(min(k, len(classes)))
    chosen: list[int] = indices.tolist()
    pairs = zip(chosen, highest.tolist(), strict=True)
    return [LabelScore(label=classes[index], score=score) for index, score in pairs]


async def _ask(
    request: Request,
    service: Service,
    key: str,
    deployment: Deployment,
    uploads: Sequence[Upload],
    timeout_s: float | None,
) -> list[Answer | PictureError]:
    preprocessing, max_pixels = deployment.card.preprocessing, service.settings.max_pixels
    pictures = [
        Picture(
            partial(decode, upload, preprocessing, max_pixels=max_pixels),
            pixels_to_decode(upload, max_pixels=max_pixels),
        )
        for upload in uploads
    ]
    require_few_pixels(pictures, service.settings.request_pixels)
    work = service.scheduler.predict(deployment, pictures, key=key, timeout_s=timeout_s)
    answers = await unless_disconnected(request, work)
    errors = [up.wrong(each) for up, each in zip(uploads, answers, strict=True) if isinstance(each, PictureError)]
    if len(errors) == len(answers):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(str, errors)), errors=errors)
    return answers
