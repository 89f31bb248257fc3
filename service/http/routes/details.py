"""What the images of an evaluation say of one model under one condition: classes, and calibration."""

from http import HTTPStatus
from typing import Annotated, NamedTuple, NoReturn

from fastapi import APIRouter, Depends, Query

from evaluation.spec import NAME_PATTERN
from service.http.deps import EvaluationDep, Service, ServiceDep
from service.http.problems import ProblemError
from service.http.schemas import CalibrationView, ClassResults
from service.jobs.evaluations import Evaluation
from service.jobs.reports.names import classes_of
from service.serving.predictions import FieldError

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


class Part(NamedTuple):
    """One model of an evaluation under one of its conditions, by their name and position."""

    evaluation: Evaluation
    model: str
    condition: int

    @property
    def title(self) -> str:
        """Of the condition."""
        return self.evaluation.plan.spec.conditions[self.condition].title


async def _part(
    evaluation: EvaluationDep,
    model: Annotated[str, Query(pattern=NAME_PATTERN, description="name of one of its models")],
    condition: Annotated[int, Query(ge=0, lt=2**63, description="position of one of its conditions, from 0")] = 0,
) -> Part:
    spec = evaluation.plan.spec
    if model not in spec.models:
        _refuse("model", f"evaluation {evaluation.id} has no model {model!r}, it has {', '.join(spec.models)}")
    if condition >= len(spec.conditions):
        _refuse("condition", f"evaluation {evaluation.id} has {len(spec.conditions)} conditions; they count from 0")
    return Part(evaluation, model, condition)


PartDep = Annotated[Part, Depends(_part)]


@router.get("/{evaluation_id}/classes")
def read_classes(part: PartDep, service: ServiceDep) -> ClassResults:
    """Read how well a model does on each class under a condition, and what the images of the class are taken for."""
    return classes_under(part, service)


@router.get("/{evaluation_id}/calibration")
def read_calibration(part: PartDep, service: ServiceDep) -> CalibrationView:
    """Read how far the confidences of a model can be trusted under a condition, and what abstaining by them would gain."""
    return calibration_under(part, service)


def classes_under(part: Part, service: Service) -> ClassResults:
    """Score the classes of a model under a condition."""
    evaluation, model, condition = part
    classes = classes_of(evaluation.plan, model, service.catalog)
    scores = service.measurements.class_scores(evaluation, model, condition, classes)
    return ClassResults(model=model, condition=part.title, classes=scores)


def calibration_under(part: Part, service: Service) -> CalibrationView:
    """Measure the confidences of a model under a condition."""
    return CalibrationView(model=part.model, condition=part.title, calibration=service.measurements.calibration(*part))


def _refuse(field: str, reason: str) -> NoReturn:
    raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reason, errors=[FieldError(field=field, message=reason)])
