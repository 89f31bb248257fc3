"""The page of one evaluation, and the pictures that it shows."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse

from evaluation.compute.examples import Example
from service.http.deps import EvaluationDep, Service, ServiceDep
from service.http.etags import unless_known
from service.http.formats import ReportFormat
from service.http.pages.example_pictures import PictureKind, kinds, png
from service.http.pages.sections import Section, changed, of_evaluation
from service.http.pages.templates import render
from service.http.problems import ProblemError
from service.http.routes.evaluations import view_of
from service.jobs.evaluations import Evaluation

PICTURE_S = 3600
"""How long a browser may keep a picture without asking again, seconds."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Index = Annotated[int, Path(ge=0, lt=2**63, description="in the evaluation, from 0")]


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
