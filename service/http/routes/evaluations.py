"""Evaluations: submitted, watched, cancelled, removed, reported."""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from common import UnknownNameError, text_sha256
from common.cores import cores
from evaluation import (
    DatasetError,
    Estimate,
    EvaluationSpec,
    Plan,
    Preset,
    Report,
    SelectionError,
    estimate,
    list_presets,
    make_plan,
    report_format,
)
from evaluation import preset as preset_conditions
from evaluation.plan import code_version
from models import CheckpointError
from service.http.deps import (
    Caller,
    CallerDep,
    EvaluationDep,
    EvaluationId,
    EvenDamagedDep,
    Service,
    ServiceDep,
    find_evaluation,
    require_admin,
)
from service.http.etags import NOT_MODIFIED, unless_known
from service.http.formats import FORMATS, ReportFormat
from service.http.preset_requests import BudgetRequest, PgdRequest, PresetRequest
from service.http.problems import ProblemError
from service.http.schemas import (
    EvaluationList,
    EvaluationView,
    ManifestView,
    MaxDevices,
    MaxHours,
    Unusable,
)
from service.jobs.evaluations import Damaged, Evaluation, Limits, Priority
from service.jobs.queries import DamagedEvaluationError
from service.jobs.removal import requests as removal
from service.jobs.reports.rows import stored_rows
from service.jobs.webhooks.targets import WebhookError, WebhookTargets
from service.serving.errors import KeyLimitError
from service.serving.predictions import FieldError
from service.tracing import current_trace

JSON = ReportFormat("json")
"""What a report is without a format."""

_FILE = {"schema": {"type": "string", "format": "binary"}}
_OTHER_FORMATS = {form.media_type: _FILE for form in FORMATS if form.media_type != "application/json"}

_PLANNING = BoundedSemaphore(cores())
"""Held while a plan is made: threads that share a core over it all end late, and those that answer polls with them."""

Search = Annotated[
    str,
    Query(
        max_length=200,
        pattern=r"^[^\x00]*$",
        description="words, of which each must occur in the id, models, data set, name, tags or note",
    ),
]

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@dataclass(frozen=True)
class Submission:
    """What a submission needs beside its body."""

    service: ServiceDep
    caller: CallerDep
    response: Response
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="repeating a request with the same key is harmless"),
    ] = None
    priority: Annotated[
        Priority | None, Query(description="normal if not given; one that was submitted before is raised, not lowered")
    ] = None
    webhook: Annotated[
        str | None,
        Query(
            max_length=2000,
            description="called when the evaluation has ended; its host is one of WITHSTAND_WEBHOOK_HOSTS",
        ),
    ] = None

    max_devices: Annotated[
        MaxDevices | None, Query(description="no limit if not given; of one that was submitted before only raised")
    ] = None
    max_hours: Annotated[
        MaxHours | None, Query(description="no limit if not given; of one that was submitted before only raised")
    ] = None

    @property
    def limits(self) -> Limits | None:
        """What it may take; None if nothing is said about that."""
        limits = Limits(self.max_devices, self.max_hours)
        return None if limits == Limits() else limits

    @property
    def wishes(self) -> str:
        """What a repeated request has to repeat beside its body."""
        return f"{self.priority or ''}{self.webhook or ''}{self.limits or ''}"


SubmissionDep = Annotated[Submission, Depends()]


@router.post("", status_code=HTTPStatus.ACCEPTED)
def submit(spec: EvaluationSpec, submission: SubmissionDep) -> EvaluationView:
    """Submit an evaluation. The same question about the same files is the same evaluation: finished work is not repeated."""
    return _submit(spec, submission)


@router.post("/dry-run")
def estimate_evaluation(spec: EvaluationSpec, service: ServiceDep) -> Estimate:
    """Estimate what an evaluation would cost at most, and how much of it is computed already; nothing is submitted."""
    plan = plan_of(spec, service)
    return estimate(plan, service.catalog, service.device, service.store.tallies(plan, plan.shards))


@router.post("/pgd", status_code=HTTPStatus.ACCEPTED)
def submit_pgd(body: PgdRequest, submission: SubmissionDep) -> EvaluationView:
    """Submit an evaluation under projected gradient descent."""
    return _submit(_spec(body, body.spec), submission)


def _add_route(preset: Preset) -> None:
    """Let a preset be submitted by its name."""

    def submit_plain(body: PresetRequest, submission: SubmissionDep) -> EvaluationView:
        return _submit(_spec(body, lambda: body.under(preset.conditions)), submission)

    def submit_within(body: BudgetRequest, submission: SubmissionDep) -> EvaluationView:
        spec = _spec(body, lambda: body.under(preset_conditions(preset.name, body.threat)))
        return _submit(spec, submission)

    router.add_api_route(
        f"/{preset.name}",
        submit_within if preset.has_one_budget else submit_plain,
        methods=["POST"],
        status_code=HTTPStatus.ACCEPTED,
        summary=f"Submit {preset.name}",
        description=f"{preset.explanation} ({preset.source})",
    )


for _preset in list_presets():
    _add_route(_preset)


def _refuse_method() -> None:
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)


for _name in ("dry-run", "pgd", *(each.name for each in list_presets())):  # they are no ids of evaluations
    router.add_api_route(f"/{_name}", _refuse_method, methods=["GET", "DELETE"], include_in_schema=False)


def _spec(body: PresetRequest, make: Callable[[], EvaluationSpec]) -> EvaluationSpec:
    try:
        return make()
    except ValidationError as error:
        fields = type(body).model_fields
        name = next((name for name in ("eps", "threat") if name in fields), "")
        received = body.model_dump(mode="json").get(name)
        budget = {"loc": (name,), "input": received}  # a radius too large or named twice, another norm
        errors = [dict(each) | ({} if each["loc"] and each["loc"][0] in fields else budget) for each in error.errors()]
        raise RequestValidationError(errors) from error


def _require_webhook(url: str, service: Service) -> None:
    try:
        WebhookTargets(service.settings.webhook_hosts).parse(url)
    except WebhookError as error:
        _refuse(str(error), field="webhook")


def _submit(spec: EvaluationSpec, submission: Submission) -> EvaluationView:
    service, caller = submission.service, submission.caller
    if submission.webhook is not None:
        _require_webhook(submission.webhook, service)
    plan = plan_of(spec, service)
    require_affordable(plan, service, caller)
    service.store.submit(
        plan,
        key=submission.idempotency_key,
        body_sha256=text_sha256(spec.model_dump_json() + submission.wishes),
        owner=caller.name,
        trace=current_trace(),
        priority=submission.priority,
        limits=submission.limits,
        webhook=submission.webhook,
    )
    service.dispatcher.wake()
    view = view_of(find_evaluation(plan.id, service, caller), service)
    submission.response.headers["Location"] = view.links["self"]
    return view


def require_affordable(plan: Plan, service: Service, caller: Caller) -> None:
    """Refuse what would hold the devices for longer than the settings allow; the estimate is an upper bound."""
    settings = service.settings
    costliest = max(plan.wholes, key=plan.passes_of)
    per_image = plan.passes_of(costliest) // plan.images
    if per_image > settings.image_passes:
        _refuse(
            f"{plan.spec.conditions[costliest.condition].title} may take {per_image:,} passes through the model per image, at most "
            f"{settings.image_passes:,} are allowed (WITHSTAND_IMAGE_PASSES); ask for fewer steps, restarts or queries"
        )
    if plan.passes > settings.evaluation_passes:
        _refuse(
            f"the evaluation may take {plan.passes:,} passes through its models, at most {settings.evaluation_passes:,} are "
            "allowed (WITHSTAND_EVALUATION_PASSES); ask for fewer images, models or conditions"
        )
    if caller.name and settings.key_passes is not None:
        waiting = service.queue.unfinished_passes(caller.name)
        if waiting + plan.passes > settings.key_passes:
            raise KeyLimitError(
                f"the unfinished evaluations of this API key may take {waiting:,} passes, and this one {plan.passes:,} more; at "
                f"most {settings.key_passes:,} are allowed; wait for some to finish, or cancel them",
                retry_after_s=60,
            )


def _refuse(reason: str, *, field: str = "conditions") -> NoReturn:
    raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, reason, errors=[FieldError(field=field, message=reason)])


def plan_of(spec: EvaluationSpec, service: Service) -> Plan:
    """Plan an evaluation; raises ProblemError where a name, the data or a checkpoint is wrong (422)."""
    try:
        with _PLANNING:
            return make_plan(spec, service.catalog, device=service.evaluating_device)
    except (UnknownNameError, DatasetError, CheckpointError) as error:
        blamed = FieldError(field=_blamed_field(error), message=str(error))
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=[blamed]) from error


def _blamed_field(error: Exception) -> str:
    match error:
        case UnknownNameError(kind="data set"):
            return "dataset"
        case SelectionError():
            return "images"
        case DatasetError():
            return "dataset"
        case _:
            return "models"


@router.get("")
def list_evaluations(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63, description="`next_cursor` of the page before")] = None,
    search: Search = "",
) -> EvaluationList:
    """List evaluations, the newest first."""
    found = service.store.evaluations(limit=limit, before=cursor, owner=caller.owner, search=search)
    more = found[-1].sequence if len(found) == limit else None
    return EvaluationList(
        evaluations=[view_of(each, service) for each in found if isinstance(each, Evaluation)],
        damaged=[Unusable(name=each.id, problem=each.problem) for each in found if isinstance(each, Damaged)],
        next_cursor=more,
    )


@router.get("/{evaluation_id}", response_model=EvaluationView, responses=NOT_MODIFIED)
def read_evaluation(evaluation: EvaluationDep, service: ServiceDep, request: Request) -> Response:
    """Read an evaluation with its progress and its report so far, but for its pictures, which its page and `report` have."""

    def answer() -> Response:
        view = view_of(evaluation, service, service.reports.of(evaluation).without_pictures())
        return Response(view.model_dump_json(), media_type="application/json")

    return unless_known(request, f"{code_version()} {evaluation.version}", answer)


async def _removes_results(
    caller: CallerDep,
    results: Annotated[bool, Query(description="remove an evaluation that has ended, with its results")] = False,
) -> bool:
    if results:
        await require_admin(caller)
    return results


@router.delete("/{evaluation_id}")
def cancel_evaluation(
    evaluation_id: EvaluationId,
    evaluation: EvenDamagedDep,
    service: ServiceDep,
    caller: CallerDep,
    with_results: Annotated[bool, Depends(_removes_results)],
) -> EvaluationView | Unusable:
    """Cancel an evaluation: pending shards are dropped, running ones stopped, finished ones stay. Submitting it again goes on.

    With `results=true` it is removed for good with its results, and the answer is its last state. That needs an admin key, if there
    are any, and is refused (409) while the evaluation is pending or running. Equal results of other evaluations stay. Of one whose
    plan cannot be read, the answer is the `problem`.
    """
    if with_results:
        removal.remove_evaluation(evaluation_id, service.store)
    else:
        service.store.cancel(evaluation_id, caller.owner)
    service.dispatcher.wake()  # a process may still run a shard of it
    if isinstance(evaluation, DamagedEvaluationError):
        return Unusable.of(evaluation_id, evaluation)
    return view_of(service.store.evaluation(evaluation_id) or evaluation, service)


@router.get("/{evaluation_id}/events", response_class=EventSourceResponse)
async def watch_evaluation(
    evaluation: EvaluationDep,
    service: ServiceDep,
    request: Request,
    last_event_id: Annotated[
        str | None, Header(description="`id` of the event received last: that state is not sent again")
    ] = None,
) -> AsyncIterable[ServerSentEvent]:
    """Watch an evaluation: an event `progress` at every change, the last one when it has ended.

    Each holds the whole state, so that none has to be sent again after a broken connection: the latest one says all.
    """
    sent = last_event_id
    while not await request.is_disconnected():
        state = await service.watching.next(evaluation.id, sent)
        if state is None:  # removed meanwhile
            return
        if state.id != sent:
            yield ServerSentEvent(data=state.view, event="progress", id=state.id)
            sent = state.id
        if state.view.status.final:
            return


@router.get(
    "/{evaluation_id}/report",
    response_model=Report | ManifestView,
    responses={HTTPStatus.OK: {"content": _OTHER_FORMATS}} | NOT_MODIFIED,
)
def read_report(
    evaluation: EvaluationDep,
    service: ServiceDep,
    request: Request,
    format: Annotated[  # noqa: A002
        ReportFormat, Query(description="\n".join(f"- {form.name}: {form.description}" for form in FORMATS))
    ] = JSON,
) -> Response:
    """Read the report; it says so when it is partial."""
    form = report_format(format)

    def answer() -> Response:
        content = form.to_bytes(
            service.reports.of(evaluation), lambda: stored_rows(evaluation, service.store, service.catalog)
        )
        return Response(content, media_type=form.media_type)

    return unless_known(request, f"{code_version()} {form.name} {evaluation.results_version}", answer)


def view_of(evaluation: Evaluation, service: Service, report: Report | None = None) -> EvaluationView:
    """Describe an evaluation."""
    return EvaluationView.of(evaluation, report, root=service.settings.root_path)
