"""Pictures in, classes out."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import Tensor

from common.pictures import PictureError
from service.http.bodies.forms import Upload
from service.http.bodies.json_bodies import described, read_body, read_json
from service.http.bodies.picture_uploads import (
    ImagesRequest,
    decode,
    media_type,
    pixels_to_decode,
    read_uploads,
    require_few_pixels,
    upload_from_base64,
)
from service.http.deps import Asked, Service, caller_of, find_deployment, service_of
from service.http.direct import describe_parameters, read_parameters
from service.http.disconnect import unless_disconnected
from service.http.middleware.telemetry import server_timing
from service.http.problems import ProblemError
from service.serving.deployments import Deployment
from service.serving.predictions import Prediction, Predictions, name_classes
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


class PredictionParameters(Asked):
    """What is asked for, in the path and the query."""

    top_k: Annotated[
        int | None, Field(ge=1, le=1000, description="classes to name; by default as the model's settings say")
    ] = None
    timeout_s: Annotated[
        float | None, Field(gt=0, description="longest wait for the answer, seconds; 504 after that")
    ] = None


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


_LABEL_SCORES = TypeAdapter(list[LabelScore])


def _described(content: dict[str, Any]) -> dict[str, Any]:
    parameters = describe_parameters(PredictionParameters, "name")
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


@router.post("/{name}/predict", response_model=Predictions, openapi_extra=_described(_PICTURES))
async def predict(request: Request) -> Response:
    """Classify one or many pictures: a multipart form with fields `file`, the bytes of one picture, or base64 in JSON.

    A picture that cannot be decoded fails alone; where none can, the answer is 422. `Server-Timing` tells where the time went.
    """
    service, asked = service_of(request), read_parameters(PredictionParameters, request)
    deployment = await find_deployment(asked, service)
    uploads = await read_uploads(request, most=service.settings.max_images)
    k = asked.top_k or deployment.settings.top_k
    answers = await _ask(request, service, deployment, uploads, timeout_s=asked.timeout_s, top_k=k)
    classes = deployment.card.classes
    predictions = [
        Prediction(file=upload.name, error=upload.wrong(answer))
        if isinstance(answer, PictureError)
        else Prediction(file=upload.name, top=name_classes(answer.ranked[:k], classes))
        for upload, answer in zip(uploads, answers, strict=True)
    ]
    found = Predictions(model=deployment.name, version=deployment.version, predictions=predictions)
    return Response(found.model_dump_json(), media_type="application/json", headers=server_timing(answers))


@router.post("/{name}/classify", response_model=list[LabelScore], openapi_extra=_described(_CLASSIFICATION))
async def classify(request: Request) -> Response:
    """Classify one picture; the answer is a bare list, as `huggingface_hub.InferenceClient.image_classification` expects."""
    service, asked = service_of(request), read_parameters(PredictionParameters, request)
    deployment = await find_deployment(asked, service)
    upload, parameters = await _read_classification(request)
    (answer,) = await _ask(request, service, deployment, [upload], timeout_s=asked.timeout_s, top_k=0)
    if isinstance(answer, PictureError):  # it would have been refused as the only one
        raise answer
    k = parameters.top_k or asked.top_k or deployment.settings.top_k
    scores = _SCORES[parameters.function_to_apply](answer.logits)
    return Response(
        _LABEL_SCORES.dump_json(_label_scores(scores, deployment.card.classes, k)), media_type="application/json"
    )


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
    deployment: Deployment,
    uploads: Sequence[Upload],
    *,
    timeout_s: float | None,
    top_k: int,
) -> list[Answer | PictureError]:
    preprocessing, max_pixels = deployment.card.preprocessing, service.settings.max_pixels
    pictures = [
        Picture(
            partial(decode, upload, preprocessing, max_pixels=max_pixels),
            pixels_to_decode(upload, max_pixels=max_pixels),
            upload.data,
        )
        for upload in uploads
    ]
    require_few_pixels(pictures, service.settings.request_pixels)
    key = caller_of(request).name
    work = service.scheduler.predict(deployment, pictures, key=key, timeout_s=timeout_s, top_k=top_k)
    answers = await unless_disconnected(request, work)
    errors = [up.wrong(each) for up, each in zip(uploads, answers, strict=True) if isinstance(each, PictureError)]
    if len(errors) == len(answers):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(str, errors)), errors=errors)
    return answers
