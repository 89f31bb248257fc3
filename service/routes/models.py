"""Models and their predictions."""

import asyncio
import logging
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request
from torch import Tensor

from models import Checkpoint, CheckpointError
from service.deps import ModelName, ServiceDep
from service.errors import FieldError, ServiceError
from service.images import decode, read_uploads
from service.schemas import ModelView, Prediction, Predictions, top_classes

_log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/models", tags=["models"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _view(checkpoint: Checkpoint, sha256: str) -> ModelView:
    card = checkpoint.card().model_dump(include=set(ModelView.model_fields))
    return ModelView.model_validate(card | {"name": checkpoint.name, "sha256": sha256})


@router.get("")
def list_models(service: ServiceDep) -> list[ModelView]:
    """List the models with their cards. One whose card cannot be read is left out; asking for it by name tells why."""
    views: list[ModelView] = []
    for name, checkpoint in service.catalog.checkpoints().items():
        try:
            views.append(_view(checkpoint, service.catalog.checkpoint_sha256(name)))
        except CheckpointError as error:
            _log.warning("model %s is left out: %s", name, error)
    return views


@router.get("/{name}")
def read_model(name: ModelName, service: ServiceDep) -> ModelView:
    """Read one model's card."""
    return _view(service.catalog.checkpoint(name), service.catalog.checkpoint_sha256(name))


@router.post("/{name}/predict", openapi_extra=_BODY)
async def predict(
    name: ModelName,
    request: Request,
    service: ServiceDep,
    top_k: Annotated[int, Query(ge=1, le=1000, description="classes to name for each picture")] = 5,
) -> Predictions:
    """Classify one or many pictures: a multipart form with fields `file`, or the bytes of one picture.

    A picture that cannot be decoded fails alone; where none can, the answer is 422.
    """
    card = service.catalog.checkpoint(name).card()
    settings = service.settings
    uploads = await read_uploads(request, most=settings.max_images)
    decoded = await asyncio.to_thread(
        lambda: [decode(upload, card.preprocessing, max_pixels=settings.max_pixels) for upload in uploads]
    )
    images = [each for each in decoded if isinstance(each, Tensor)]
    if not images:
        errors = [each for each in decoded if isinstance(each, FieldError)]
        raise ServiceError(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(map(str, errors)), errors=errors)
    logits = iter(await service.predictor.predict(name, images))
    predictions = [
        Prediction(file=upload.name, error=each)
        if isinstance(each, FieldError)
        else Prediction(file=upload.name, top=top_classes(next(logits), card.classes, top_k))
        for upload, each in zip(uploads, decoded, strict=True)
    ]
    return Predictions(model=name, predictions=predictions)
