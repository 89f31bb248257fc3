"""Data sets that models can be evaluated on: listed, added."""

import asyncio
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Depends, Request

from evaluation.data.sources import COMPRESSED_TARS, dataset_name
from service.http.bodies.file_uploads import described_form, receive_file
from service.http.deps import ServiceDep, require_admin
from service.http.problems import ProblemError
from service.http.schemas import DatasetView, Unusable

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
async def add_dataset(request: Request, service: ServiceDep) -> DatasetView:
    """Add a data set: a multipart form with its `file`, a zip or tar of one folder of pictures per class."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is no multipart form with the part `file`")
    async with receive_file(request, service.settings.data_dir / "datasets", _check_ending) as (file, sent_as, fields):
        name = fields.get("name", b"").decode(errors="replace") or dataset_name(Path(sent_as))
        dataset = await asyncio.to_thread(service.catalog.add_dataset, file, name)
        return await asyncio.to_thread(DatasetView.of, name, dataset)
