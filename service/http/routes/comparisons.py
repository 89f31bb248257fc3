"""Two models on the same images."""

from typing import Annotated

from fastapi import APIRouter, Query

from evaluation import Comparison, Side, compare
from evaluation.spec import NAME_PATTERN
from service.http.deps import Caller, CallerDep, Service, ServiceDep, find_evaluation
from service.jobs.reports.names import classes_of

router = APIRouter(prefix="/v1/comparisons", tags=["evaluations"])

EvaluationQuery = Annotated[str, Query(pattern="^[0-9a-f]{16}$", description="id of an evaluation")]
ModelQuery = Annotated[str, Query(pattern=NAME_PATTERN, description="name of one of its models")]


@router.get("")
def read_comparison(
    service: ServiceDep,
    caller: CallerDep,
    evaluation: EvaluationQuery,
    model: ModelQuery,
    other_model: ModelQuery,
    other_evaluation: Annotated[
        str | None, Query(pattern="^[0-9a-f]{16}$", description="id of another evaluation; without it the same")
    ] = None,
) -> Comparison:
    """Compare two models image by image: McNemar's test, the paired difference and the images on which they disagree."""
    sides = ((evaluation, model), (other_evaluation or evaluation, other_model))
    return compare(*(_side(service, caller, *side) for side in sides))


def _side(service: Service, caller: Caller, evaluation_id: str, model: str) -> Side:
    plan = find_evaluation(evaluation_id, service, caller).plan
    classes = classes_of(plan, model, service.catalog) if model in plan.spec.models else ()
    return Side(plan, model, service.store.results(evaluation_id), classes)
