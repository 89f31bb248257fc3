"""Data sets that models can be evaluated on: listed, read, added."""

import asyncio
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response

from evaluation.data.dataset_check import Matched, match_with
from evaluation.data.datasets import ImageFolder
from evaluation.data.sources import COMPRESSED_TARS, dataset_name
from evaluation.spec import NAME_PATTERN
from models import CheckpointError
from service.http.bodies.file_uploads import described_form, receive_file
from service.http.deps import DatasetName, Service, ServiceDep, require_admin
from service.http.problems import ProblemError
from service.http.schemas import DatasetDetails, DatasetView, Unusable

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

UPLOADS = (".zip", ".tar")
"""Endings of files that can be uploaded: archives that are read in place, never unpacked onto the disk."""

_NEW_DATASET = described_form("data set", file="a .zip or .tar file")


@router.get("")
def list_datasets(service: ServiceDep) -> list[DatasetView | Unusable]:
    """List the data sets, at once: what is null is being counted. One that cannot be read has a `problem` once that is known."""
    return service.dataset_counts.views()


def _check_ending(filename: str) -> None:
    if not filename.endswith(UPLOADS):
        hint = "; it is compressed: gunzip it first" if filename.endswith(COMPRESSED_TARS) else ""
        raise ValueError(f"the name {filename[:100]!r} must end in one of {', '.join(UPLOADS)}{hint}")


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    openapi_extra={"requestBody": _NEW_DATASET},
    dependencies=[Depends(require_admin)],
)
async def add_dataset(request: Request, service: ServiceDep, response: Response) -> DatasetView:
    """Add a data set: a multipart form with its `file`, a zip or tar of one folder of pictures per class."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is no multipart form with the part `file`")
    async with receive_file(request, service.settings.data_dir / "datasets", _check_ending) as (file, sent_as, fields):
        name = fields.get("name", b"").decode(errors="replace") or dataset_name(Path(sent_as))
        dataset = await asyncio.to_thread(service.catalog.add_dataset, file, name)
        response.headers["Location"] = f"{service.settings.root_path}{router.prefix}/{quote(name)}"
        return await asyncio.to_thread(DatasetView.of, name, dataset)


MatchedModel = Annotated[
    str | None, Query(pattern=NAME_PATTERN, description="a model, among whose classes those of the data set are found")
]


@router.get("/{name}")
def read_dataset(name: DatasetName, service: ServiceDep, model: MatchedModel = None) -> DatasetDetails:
    """Read what a data set holds: how many pictures of each class, and which of a model's classes each is taken for."""
    dataset = service.catalog.open_dataset(name)
    counts = Counter(dataset.labels)
    return DatasetDetails(
        **dict(DatasetView.of(name, dataset)),
        images_by_class={each: counts[label] for label, each in enumerate(dataset.classes)},
        ignored=len(dataset.ignored),
        match=None if model is None else _match(model, dataset, service),
    )


def _match(model: str, dataset: ImageFolder, service: Service) -> Matched:
    try:
        deployment = service.deployments.find(model)
    except CheckpointError as error:
        return Matched(model=model, problem=str(error))
    return match_with(deployment.checkpoint, deployment.card.classes, dataset)
