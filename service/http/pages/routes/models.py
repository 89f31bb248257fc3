"""The pages of models; their JSON twins are /v1/models, and of one model what is below it and its evaluations."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from common import UnknownNameError
from evaluation import Catalog, DatasetError
from evaluation.data.dataset_check import match_with
from evaluation.spec import NAME_PATTERN
from models import SUFFIXES, CheckpointError, scaled
from service.http.bodies.forms import Upload
from service.http.bodies.picture_uploads import decode
from service.http.deps import Caller, CallerDep, DeploymentDep, ModelName, Service, ServiceDep
from service.http.etags import unless_known
from service.http.pages.routes.evaluation import PICTURE_S
from service.http.pages.sections import Section, changed
from service.http.pages.templates import macro, render
from service.http.routes.evaluations import view_of
from service.http.routes.models import list_models, read_model
from service.http.routes.serving import read_serving
from service.http.schemas import DatasetView, EvaluationView, ModelView, Unusable
from service.jobs.evaluations import Evaluation
from service.serving.deployments import Deployment, version_of

EVALUATIONS_SHOWN = 20
"""Evaluations on the page of a model, the newest first."""

CLASSES_SHOWN = 5
"""Best and worst classes on the page of a model."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


class Row(NamedTuple):
    """A model in the table.

    Attributes:
        view: what the twin says.
        version: of the model; None where it cannot be told.
        is_default: whether it answers where no version is asked for, and there are others.
        address: names exactly this version; None where it cannot be served.
        loaded_on: devices that hold it.
        is_removable: whether it was added.
    """

    view: ModelView | Unusable
    is_removable: bool
    version: str | None = None
    is_default: bool = False
    address: str | None = None
    loaded_on: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.view.name

    @property
    def page(self) -> str:
        """Name under which its page is found."""
        return self.address or self.name


@router.get("/models")
def models_page(service: ServiceDep, caller: CallerDep, request: Request) -> Response:
    """All models, and a form that adds one."""
    settings = service.settings
    page = render(
        "models.html",
        root=settings.root_path,
        sections=[*_list(service, caller)],
        may_change=caller.is_admin,
        suffixes=sorted(SUFFIXES),
        max_bytes=settings.max_checkpoint_bytes,
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.post("/models/changes")
def models_changes(known: list[str], service: ServiceDep, caller: CallerDep) -> str:
    """Render the sections of the page whose hashes are not known."""
    return changed([*_list(service, caller)], {*known})


@router.get("/models/{name}")
def model_page(name: ModelName, service: ServiceDep, caller: CallerDep, request: Request) -> Response:
    """One model: its card, what was measured, and its evaluations."""
    page = render(
        "model.html", root=service.settings.root_path, name=name, sections=[*_sections(name, service, caller)]
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.post("/models/{name}/changes")
def model_changes(name: ModelName, known: list[str], service: ServiceDep, caller: CallerDep) -> str:
    """Render the sections of a model's page whose hashes are not known."""
    return changed([*_sections(name, service, caller)], {*known})


@router.get("/models/{name}/attention.png")
async def attention(
    deployment: DeploymentDep, dataset: Annotated[str, Query(pattern=NAME_PATTERN)], service: ServiceDep
) -> Response:
    """Draw what a model's last attention layer weighs in an image of a data set."""

    def draw() -> bytes:
        opened = service.catalog.open_dataset(dataset)
        (index,) = opened.select(1, seed=0)
        upload, preprocessing = Upload(opened.files[index], opened.read(index)), deployment.card.preprocessing
        image = scaled(decode(upload, preprocessing, max_pixels=service.settings.max_pixels))
        explained = service.explainer.explain(deployment.checkpoint, image, file=upload.name, layer=None, query=None)
        return explained.as_png()

    headers = {"Cache-Control": f"private, max-age={PICTURE_S}"}
    return Response(await service.explainer.run(draw), media_type="image/png", headers=headers)


def _list(service: Service, caller: Caller) -> Iterator[Section]:
    root = service.settings.root_path
    counting = service.model_structures.is_counting
    rows = [_row(each, service) for each in list_models(service, caller)]
    counting = counting or service.model_structures.is_counting
    yield Section("models", macro("model_parts.html", "models", rows, counting, root, caller.is_admin))


def _row(view: ModelView | Unusable, service: Service) -> Row:
    row, model = Row(view, _is_removable(view.name, service)), view.name.partition("@")[0]
    try:
        versions = service.deployments.versions(model)
        found = service.deployments.find(model, version_of(view.name))
        is_default = len(versions) > 1 and service.deployments.find(model).version == found.version
    except (CheckpointError, UnknownNameError, OSError):
        return row
    return row._replace(
        version=found.version,
        is_default=is_default,
        address=model if len(versions) == 1 and model == view.name else f"{model}@{found.version}",
        loaded_on=(*service.control.loaded_on(found),),
    )


def _is_removable(name: str, service: Service) -> bool:
    try:
        service.catalog.require_added(name)
    except (CheckpointError, UnknownNameError):
        return False
    return True


def _sections(name: str, service: Service, caller: Caller) -> Iterator[Section]:
    root = service.settings.root_path

    def section(key: str, *values: object) -> Section:
        return Section(key, macro("model_parts.html", key, *values))

    try:
        deployment = service.deployments.find(name)
        service.catalog.verified_card(deployment.checkpoint)
    except CheckpointError as error:
        yield section("problem", "model", Unusable.of(name, error).problem)
        return
    counting = service.model_structures.is_counting
    model = read_model(deployment, service, caller)
    counting = counting or service.model_structures.is_counting
    evaluations = _evaluations(model.name, service, caller)
    shown, more = evaluations[:EVALUATIONS_SHOWN], len(evaluations) > EVALUATIONS_SHOWN
    yield section("actions", model, root)
    yield section("card", model, counting)
    yield section("serving", read_serving(deployment, service), root, caller.is_admin)
    yield section("measured", model.measured, root)
    yield section("by_class", model.measured, CLASSES_SHOWN)
    dataset, looking = _fitting_dataset(deployment, service)
    yield section("attention", name, dataset, bool(model.attention_layers), looking, root)
    yield section("evaluations", shown, more, model.name, root)


def _evaluations(model: str, service: Service, caller: Caller) -> list[EvaluationView]:
    """Evaluations of a model; the search finds names that contain its own too."""
    found = service.store.evaluations(limit=5 * EVALUATIONS_SHOWN, owner=caller.owner, search=model)
    return [view_of(each, service) for each in found if isinstance(each, Evaluation) and model in each.plan.spec.models]


def _fitting_dataset(deployment: Deployment, service: Service) -> tuple[str | None, bool]:
    """Find a data set with a model's classes, first that of the accuracy it claims; and whether some are yet to be counted."""
    views = [each for each in service.dataset_counts.views() if isinstance(each, DatasetView)]
    claimed, classes = deployment.card.clean_accuracy_on.split(), deployment.card.classes
    counted = sorted((each for each in views if each.sha256), key=lambda each: each.name not in claimed)
    fitting = (
        each.name
        for each in counted
        if _fits(service.catalog, each.name, each.sha256 or "", deployment.checkpoint, classes)
    )
    return next(fitting, None), len(counted) < len(views)


@lru_cache(1024)
def _fits(catalog: Catalog, dataset: str, _sha256: str, model: str, classes: tuple[str, ...]) -> bool:
    try:
        return match_with(model, classes, catalog.open_dataset(dataset)).problem is None
    except (DatasetError, UnknownNameError, OSError):
        return False
