"""The page that compares models, of one evaluation or of several; the JSON twin of each pair is /v1/comparisons."""

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from evaluation import Comparison, ComparisonError, ShardResult, Side, compare
from evaluation.reports.report import ModelReport
from evaluation.spec import NAME_PATTERN
from evaluation.statistics import Proportion
from service.http.deps import CallerDep, Service, ServiceDep, find_evaluation
from service.http.pages.templates import render
from service.http.routes.evaluations import view_of
from service.jobs.evaluations import Evaluation
from service.jobs.reports.names import classes_of, dataset_of

MOST_SIDES = 8
"""Models that are compared at once."""

OFFERED = 12
"""Evaluations that have ended whose models can be chosen."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

SideName = Annotated[
    str, Query(pattern=rf"^[0-9a-f]{{16}} {NAME_PATTERN[1:]}", description="id of an evaluation, a space, a model")
]
"""A model of an evaluation."""


class Pair(NamedTuple):
    """A model beside the first one: what differs, or why that cannot be said."""

    name: str
    comparison: Comparison | None
    refusal: str = ""


class Column(NamedTuple):
    """A model with its scores by the titles of its conditions."""

    evaluation: Evaluation
    report: ModelReport
    scores: dict[str, Proportion | None]


@router.get("/compare")
def comparison(
    service: ServiceDep,
    caller: CallerDep,
    side: Annotated[Sequence[SideName], Query(max_length=MOST_SIDES)] = (),
    evaluation: Annotated[
        str | None, Query(pattern="^[0-9a-f]{16}$", description="all its models, up to eight")
    ] = None,
) -> str:
    """Scores side by side, and each model against the first: paired differences and the images on which they disagree."""
    named = [tuple(each.split(" ", 1)) for each in side]
    if evaluation is not None and not named:
        models = find_evaluation(evaluation, service, caller).plan.spec.models
        named = [(evaluation, model) for model in models[:MOST_SIDES]]
    known = {each: find_evaluation(each, service, caller) for each, _ in named}
    columns = [*_columns(named, known, service)]
    latest = service.store.evaluations(limit=OFFERED, owner=caller.owner, ended=True)
    offered = known | {each.id: each for each in latest if isinstance(each, Evaluation)}
    return render(
        "comparison.html",
        root=service.settings.root_path,
        offered=[view_of(each, service) for each in offered.values()],
        chosen={f"{each} {model}" for each, model in named},
        columns=columns,
        pictures=_pictures(columns, service),
        titles=[*dict.fromkeys(title for column in columns for title in column.scores)],
        pairs=[*_pairs(columns, service)] if len(columns) > 1 else [],
    )


def _columns(named: Iterable[tuple[str, ...]], known: dict[str, Evaluation], service: Service) -> Iterable[Column]:
    """Those that there are; a name that its evaluation does not have is left out."""
    for evaluation_id, model in named:
        report = service.reports.of(known[evaluation_id])
        if found := next((each for each in report.models if each.model == model), None):
            yield Column(known[evaluation_id], found, {each.title: each.score for each in found.conditions})


def _pairs(columns: Sequence[Column], service: Service) -> Iterable[Pair]:
    results = {each.evaluation.id: service.store.results(each.evaluation.id) for each in columns}
    first, *others = [_side(each, results[each.evaluation.id], service) for each in columns]
    for other in others:
        try:
            yield Pair(other.model, compare(other, first))
        except ComparisonError as error:
            yield Pair(other.model, None, str(error))


def _side(column: Column, results: Sequence[ShardResult], service: Service) -> Side:
    plan, model = column.evaluation.plan, column.report.model
    return Side(plan, model, results, classes_of(plan, model, service.catalog))


def _pictures(columns: Sequence[Column], service: Service) -> str | None:
    """Where pictures of the images are that were compared; None where the data set is another one by now."""
    plan = columns[0].evaluation.plan if columns else None
    if plan is None or dataset_of(plan, service.catalog) is None:
        return None
    return f"{service.settings.root_path}/datasets/{plan.spec.dataset}/images"
