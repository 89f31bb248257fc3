"""Scores of an evaluation class by class."""

from http import HTTPStatus
from typing import Annotated, NoReturn

from fastapi import APIRouter, Query

from evaluation.spec import NAME_PATTERN
from service.http.deps import EvaluationDep, Service, ServiceDep
from service.http.problems import ProblemError
from service.http.schemas import ClassResults
from service.jobs.evaluations import Evaluation
from service.jobs.reports.names import classes_of
from service.serving.predictions import FieldError

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@router.get("/{evaluation_id}/classes")
def read_classes(
    evaluation: EvaluationDep,
    service: ServiceDep,
    model: Annotated[str, Query(pattern=NAME_PATTERN, description="name of one of its models")],
    condition: Annotated[int, Query(ge=0, lt=2**63, description="position of one of its conditions, from 0")] = 0,
) -> ClassResults:
    """Read how well a model does on each class under a condition, and what the images of the class are taken for."""
    spec = evaluation.plan.spec
    if model not in spec.models:
        _refuse("model", f"evaluation {evaluation.id} has no model {model!r}, it has {', '.join(spec.models)}")
    if condition >= len(spec.conditions):
        _refuse("condition", f"evaluation {evaluation.id} has {len(spec.conditions)} conditions; they count from 0")
    return scores_of(evaluation, model, condition, service)


def scores_of(evaluation: Evaluation, model: str, condition: int, service: Service) -> ClassResults:
    """Score the classes of one of an evaluation's models under one of its conditions."""
    classes = classes_of(evaluation.plan, model, service.catalog)
    scores = service.measurements.class_scores(evaluation, model, condition, classes)
    return ClassResults(model=model, condition=evaluation.plan.spec.conditions[condition].title, classes=scores)


def _refuse(field: str, reason: str) -> NoReturn:
    raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reason, errors=[FieldError(field=field, message=reason)])
