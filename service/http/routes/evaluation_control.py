"""Evaluations are held up, go on, change their place in the queue, are tried again, and get a name."""

from fastapi import APIRouter
from pydantic import BaseModel

from service.http.deps import Caller, CallerDep, EvaluationDep, Service, ServiceDep, find_evaluation
from service.http.routes.evaluations import require_affordable, view_of
from service.http.schemas import STRICT, EvaluationView, LimitsRequest
from service.jobs.evaluations import Priority
from service.jobs.labels import Label
from service.tracing import current_trace

router = APIRouter(prefix="/v1/evaluations/{evaluation_id}", tags=["evaluations"])


class PriorityRequest(BaseModel):
    """A new priority."""

    model_config = STRICT

    priority: Priority


@router.post("/pause")
def pause_evaluation(evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep) -> EvaluationView:
    """Start no more shards of an evaluation, across restarts too; those that are running are finished.

    Where other keys asked for the same evaluation, that needs an admin key (403); one that has ended cannot be paused (409).
    """
    service.queue.pause_evaluation(evaluation.id, caller.owner)
    return _now(evaluation.id, service, caller)


@router.post("/resume")
def resume_evaluation(evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep) -> EvaluationView:
    """Start shards of an evaluation again, once the whole queue is not paused either."""
    service.queue.resume_evaluation(evaluation.id)
    service.dispatcher.wake()
    return _now(evaluation.id, service, caller)


@router.put("/priority")
def change_priority(
    body: PriorityRequest, evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep
) -> EvaluationView:
    """Change which evaluations get free devices first; those of equal priority share them. Refused as `pause` is."""
    service.queue.prioritise(evaluation.id, body.priority, caller.owner)
    return _now(evaluation.id, service, caller)


@router.put("/limits")
def change_limits(
    body: LimitsRequest, evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep
) -> EvaluationView:
    """Change how many devices may run it and for how long, of a failed evaluation too; what is not given is no limit.

    Refused as `pause` is.
    """
    service.queue.limit(evaluation.id, body.limits, caller.owner)
    service.dispatcher.wake()
    return _now(evaluation.id, service, caller)


@router.put("/label")
def put_label(body: Label, evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep) -> EvaluationView:
    """Give an evaluation a name, tags and a note, in place of those it had; the list can be searched for them.

    All keys that asked for it see them. Refused as `pause` is.
    """
    service.queue.put_label(evaluation.id, body, caller.owner)
    return _now(evaluation.id, service, caller)


@router.post("/retry")
def retry_evaluation(evaluation: EvaluationDep, service: ServiceDep, caller: CallerDep) -> EvaluationView:
    """Try the failed shards of a failed evaluation again, and those that were dropped for them; finished ones stay.

    One that has reached its `max_hours` needs a higher one first (409).
    """
    require_affordable(evaluation.plan, service, caller)
    service.queue.retry(evaluation.id, current_trace())
    service.dispatcher.wake()
    return _now(evaluation.id, service, caller)


def _now(evaluation_id: str, service: Service, caller: Caller) -> EvaluationView:
    return view_of(find_evaluation(evaluation_id, service, caller), service)
