"""The pages of data sets; their JSON twins are /v1/datasets and, for one, /v1/datasets/{name}."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse

from evaluation import DatasetError, ImageFolder
from service.http.deps import CallerDep, DatasetName, Service, ServiceDep
from service.http.etags import unless_known
from service.http.pages.routes.evaluation import PICTURE_S
from service.http.pages.sections import Section, changed
from service.http.pages.templates import macro, render
from service.http.problems import ProblemError
from service.http.routes.datasets import UPLOADS, MatchedModel, list_datasets, read_dataset
from service.http.schemas import Unusable
from service.serving.pictures.drawing import png

PREVIEW = 128
"""Longer side of a preview, pixels."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/datasets")
def datasets_page(service: ServiceDep, caller: CallerDep, request: Request) -> Response:
    """All data sets, and a form that adds one."""
    settings = service.settings
    page = render(
        "datasets.html",
        root=settings.root_path,
        sections=[*_list(service)],
        may_change=caller.is_admin,
        suffixes=UPLOADS,
        max_bytes=settings.max_dataset_bytes,
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.post("/datasets/changes")
def datasets_changes(known: list[str], service: ServiceDep) -> str:
    """Render the sections of the page whose hashes are not known."""
    return changed([*_list(service)], {*known})


@router.get("/datasets/{name}")
def dataset_page(name: DatasetName, service: ServiceDep, request: Request, model: MatchedModel = None) -> Response:
    """One data set: its classes, an image of each, and which of a model's classes each is taken for."""
    try:
        dataset = read_dataset(name, service, model)
    except (DatasetError, OSError) as error:
        dataset = Unusable.of(name, error)
    page = render(
        "dataset.html",
        root=service.settings.root_path,
        name=name,
        dataset=dataset,
        model=model,
        models=service.deployments.names(),
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.get("/datasets/{name}/classes/{index}.png")
def preview(name: DatasetName, index: Annotated[int, Path(ge=0, lt=2**63)], service: ServiceDep) -> Response:
    """A small picture of the first image of a class."""
    dataset = service.catalog.open_dataset(name)
    if index >= len(dataset.classes):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"{name} has {len(dataset.classes)} classes; they count from 0")
    return _small(dataset, dataset.labels.index(index))


@router.get("/datasets/{name}/images/{index}.png")
def image(name: DatasetName, index: Annotated[int, Path(ge=0, lt=2**63)], service: ServiceDep) -> Response:
    """A small picture of an image."""
    dataset = service.catalog.open_dataset(name)
    if index >= len(dataset):
        raise ProblemError(HTTPStatus.NOT_FOUND, f"{name} has {len(dataset)} images; they count from 0")
    return _small(dataset, index)


def _small(dataset: ImageFolder, index: int) -> Response:
    picture = dataset.picture(index).convert("RGB")
    picture.thumbnail((PREVIEW, PREVIEW))
    return Response(png(picture), media_type="image/png", headers={"Cache-Control": f"private, max-age={PICTURE_S}"})


def _list(service: Service) -> Iterator[Section]:
    datasets, root = list_datasets(service), service.settings.root_path
    yield Section("datasets", macro("dataset_parts.html", "datasets", datasets, root))
