"""Pages for people; each has a JSON twin under /v1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from evaluation.compute.examples import Example
from service.http.deps import CallerDep, EvaluationDep, Service, ServiceDep
from service.http.etags import unless_known
from service.http.formats import ReportFormat
from service.http.pages.example_pictures import PictureKind, kinds, png
from service.http.pages.sections import Section, changed, of_evaluation
from service.http.pages.templates import macro, render
from service.http.problems import ProblemError
from service.http.routes.datasets import list_datasets
from service.http.routes.evaluations import view_of
from service.http.routes.models import list_models
from service.http.routes.queue import list_devices, read_queue
from service.jobs.evaluations import Damaged, Evaluation

UNFINISHED_SHOWN = 4
"""Evaluations that have not ended on the start page; the page of the queue has all."""

RESULTS_SHOWN = 12
"""Evaluations that have ended on the start page."""

PICTURE_S = 3600
"""How long a browser may keep a picture without asking again, seconds."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Index = Annotated[int, Path(ge=0, lt=2**63, description="in the evaluation, from 0")]


@dataclass(frozen=True)
class Start:
    """What the start page shows is made of."""

    service: ServiceDep
    caller: CallerDep
    request: Request
    before: Annotated[
        int | None, Query(ge=0, lt=2**63, description="results of evaluations that were submitted before this one")
    ] = None


StartDep = Annotated[Start, Depends()]


@router.get("/")
def index(start: StartDep) -> Response:
    """What runs, the latest results, models and data sets."""
    root = start.service.settings.root_path
    page = render("index.html", root=root, before=start.before, sections=[*_start(start)])
    return unless_known(start.request, page, lambda: HTMLResponse(page))


@router.post("/changes")
def index_changes(known: list[str], start: StartDep) -> str:
    """Render the sections of the start page whose hashes are not known."""
    return changed([*_start(start)], {*known})


@router.get("/evaluations/{evaluation_id}")
def evaluation(evaluation: EvaluationDep, service: ServiceDep, request: Request) -> Response:
    """One evaluation: progress while it runs, and its report so far."""
    root = service.settings.root_path
    page = render(
        "evaluation.html",
        root=root,
        evaluation=view_of(evaluation, service),
        sections=_sections(evaluation, service),
        forms=list(ReportFormat),
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.post("/evaluations/{evaluation_id}/changes")
def evaluation_changes(known: list[str], evaluation: EvaluationDep, service: ServiceDep) -> str:
    """Render the sections of an evaluation's page whose hashes are not known."""
    return changed(_sections(evaluation, service), {*known})


@router.get("/evaluations/{evaluation_id}/pictures/{model}/{condition}/{image}/{kind}.png")
def picture(
    evaluation: EvaluationDep, model: Index, condition: Index, image: Index, kind: PictureKind, service: ServiceDep
) -> Response:
    """One picture of an image that was flipped."""
    example = _example(evaluation, service, model, condition, image)
    if example is None or kind not in kinds(example):
        raise ProblemError(
            HTTPStatus.NOT_FOUND,
            f"evaluation {evaluation.id} has no such picture; its page links to those that there are",
        )
    headers = {"Cache-Control": f"private, max-age={PICTURE_S}"}
    return Response(png(example, kind), media_type="image/png", headers=headers)


def _start(start: Start) -> Iterator[Section]:
    service, caller, before = start.service, start.caller, start.before
    root = service.settings.root_path
    unfinished = service.queue.unfinished(limit=UNFINISHED_SHOWN + 1, owner=caller.owner)
    ended = service.store.evaluations(limit=RESULTS_SHOWN, before=before, owner=caller.owner, ended=True)
    older = ended[-1].sequence if len(ended) == RESULTS_SHOWN else None
    rows = service.result_rows.of(each for each in ended if isinstance(each, Evaluation))
    cards = [view_of(each, service) for each in unfinished[:UNFINISHED_SHOWN] if isinstance(each, Evaluation)]
    damaged = [each for each in (*unfinished, *ended) if isinstance(each, Damaged)]
    models, datasets = list_models(service), list_datasets(service)

    def section(name: str, *values: object) -> Section:
        return Section(name, macro("start.html", name, *values))

    yield section("overview", list_devices(service, caller).devices, read_queue(service, caller, limit=1), root)
    is_empty = not unfinished and not ended and before is None
    yield section("hint", is_empty, str(start.request.base_url).rstrip("/"), models, datasets)
    yield section("unfinished", cards, len(unfinished) > UNFINISHED_SHOWN, root)
    yield section("results", rows, before, older, root)
    yield section("damaged", damaged)
    yield section("models", models, root)
    yield section("datasets", datasets)


def _sections(evaluation: Evaluation, service: Service) -> Sequence[Section]:
    progress = of_evaluation(view_of(evaluation, service))
    return progress, *service.report_sections.of(evaluation)


def _example(evaluation: Evaluation, service: Service, model: int, condition: int, image: int) -> Example | None:
    """Find an example; they come with the first images of a model and condition."""
    plan = evaluation.plan
    if model >= len(plan.spec.models) or condition >= len(plan.spec.conditions):
        return None
    first = plan.shards_of(plan.spec.models[model], condition)[0]
    result = service.store.result(evaluation.id, first)
    return next((each for each in result.examples if each.index == image), None) if result else None
