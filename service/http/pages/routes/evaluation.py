"""The page of one evaluation, and the pictures that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from evaluation.compute.examples import Example
from service.http.deps import CallerDep, EvaluationDep, Service, ServiceDep
from service.http.etags import unless_known
from service.http.formats import FORMATS
from service.http.pages.example_pictures import PictureKind, kinds, png
from service.http.pages.sections import EVERY, Chosen, Section, Tab, changed, of_calibration, of_classes, of_evaluation
from service.http.pages.templates import render
from service.http.problems import ProblemError
from service.http.routes.details import Part, calibration_under, classes_under
from service.http.routes.evaluations import view_of
from service.jobs.evaluations import Evaluation

PICTURE_S = 3600
"""How long a browser may keep a picture without asking again, seconds."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Index = Annotated[int, Path(ge=0, lt=2**63, description="in the evaluation, from 0")]

Class = Annotated[str, Query(max_length=200, description="empty chooses all")]


async def _tab(request: Request) -> Tab:
    """The tab that a path names; the address of the page alone is that of the first one."""
    name = request.path_params.get("tab", Tab.TABLE)
    if name not in [*Tab]:
        raise ProblemError(
            HTTPStatus.NOT_FOUND, f"the page of an evaluation has no part {name[:100]!r}; it has: {', '.join(Tab)}"
        )
    return Tab(name)


TabDep = Annotated[Tab, Depends(_tab)]


@dataclass(frozen=True)
class Shown:
    """The evaluation of a page, what is shown of it, and to whom."""

    evaluation: EvaluationDep
    service: ServiceDep
    caller: CallerDep
    request: Request
    tab: TabDep
    model: Class = ""
    label: Class = ""
    prediction: Class = ""
    confidence: Annotated[float | Literal[""], Query(description="of an example's prediction, at least")] = ""
    condition: Annotated[int | Literal[""], Query(ge=0, lt=2**63, description="of classes and calibration")] = ""

    @property
    def chosen(self) -> Chosen:
        """Which examples are shown: of the first model that has some, if none is named."""
        report = self.service.reports.of(self.evaluation)
        first = next((each.model for each in report.models if any(c.examples for c in each.conditions)), None)
        return Chosen(self.model or first, self.label or None, self.prediction or None, self.confidence or 0.0)

    @property
    def part(self) -> Part:
        """Whose classes or calibration are shown: of the first model and the last condition where none is named."""
        spec = self.evaluation.plan.spec
        model = self.model if self.model in spec.models else spec.models[0]
        last = len(spec.conditions) - 1
        return Part(self.evaluation, model, last if self.condition == "" else min(self.condition, last))

    def above(self) -> Section:
        """Where the evaluation stands."""
        return of_evaluation(view_of(self.evaluation, self.service))

    def sections(self) -> Sequence[Section]:
        """What the tab shows."""
        part = self.part
        asked = urlencode({"model": part.model, "condition": part.condition})
        link = f"{self.service.settings.root_path}/v1/evaluations/{self.evaluation.id}/{self.tab}?{asked}"
        if self.tab is Tab.CLASSES:
            return [of_classes(classes_under(part, self.service), link)]
        if self.tab is Tab.CALIBRATION:
            return [of_calibration(calibration_under(part, self.service), link)]
        sections = self.service.report_sections
        return sections.of(self.evaluation, self.tab, self.chosen if self.tab is Tab.IMAGES else EVERY)


ShownDep = Annotated[Shown, Depends()]


def show(shown: ShownDep) -> Response:
    """One evaluation: progress while it runs, and its report so far."""
    service, request, evaluation = shown.service, shown.request, shown.evaluation
    view, root = view_of(evaluation, service), service.settings.root_path
    examples = [e for m in service.reports.of(evaluation).models for c in m.conditions for e in c.examples]
    query = f"?{request.url.query}" if request.url.query else ""
    page = render(
        "evaluation.html",
        root=root,
        evaluation=view,
        above=[shown.above()],
        sections=shown.sections(),
        tabs=[*Tab],
        tab=shown.tab,
        forms=FORMATS,
        may_remove=view.status.final and shown.caller.is_admin,
        chosen=shown.chosen,
        part=shown.part,
        labels=sorted({each.label for each in examples}),
        predictions=sorted({each.prediction for each in examples}),
        changes=f"{view.links['page']}/{shown.tab}/changes{query}",
    )
    return unless_known(request, page, lambda: HTMLResponse(page))


for _path in ("/evaluations/{evaluation_id}", "/evaluations/{evaluation_id}/{tab}"):
    router.add_api_route(_path, show, methods=["GET"])


@router.post("/evaluations/{evaluation_id}/{tab}/changes")
def changes(known: list[str], shown: ShownDep) -> str:
    """Render the sections of an evaluation's page whose hashes are not known."""
    return changed([shown.above(), *shown.sections()], {*known})


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


def _example(evaluation: Evaluation, service: Service, model: int, condition: int, image: int) -> Example | None:
    """Find an example; they come with the first images of a model and condition."""
    plan = evaluation.plan
    if model >= len(plan.spec.models) or condition >= len(plan.spec.conditions):
        return None
    first = plan.shards_of(plan.spec.models[model], condition)[0]
    result = service.store.result(evaluation.id, first)
    return next((each for each in result.examples if each.index == image), None) if result else None
