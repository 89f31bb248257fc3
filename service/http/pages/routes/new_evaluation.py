"""The page with the form of a new evaluation; what it submits is the body of `POST /v1/evaluations`."""

import json
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import HTMLResponse

import attacks
import evaluation
from evaluation.spec import Name
from service.accounts.keys import Scope
from service.http.access.scopes import refusal
from service.http.deps import CallerDep, ServiceDep, find_evaluation
from service.http.pages.evaluation_form import Fields, FormError, condition_of, fields_of, require_short, spec_of
from service.http.pages.templates import macro, render
from service.http.problems import ProblemError
from service.http.routes.datasets import list_datasets
from service.http.routes.evaluations import plan_of, require_affordable
from service.http.routes.models import list_models
from service.http.schemas import Unusable

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Form = Annotated[Fields, Body()]


@router.get("/new")
def new_evaluation(
    service: ServiceDep,
    caller: CallerDep,
    model: Annotated[tuple[Name, ...], Query(max_length=64, description="chosen at first")] = (),
    dataset: Annotated[Name | None, Query(description="chosen at first")] = None,
    like: Annotated[
        str | None, Query(pattern="^[0-9a-f]{16}$", description="id of an evaluation whose specification is filled in")
    ] = None,
) -> str:
    """The form, empty or filled in; for a key that may not submit, why there is none."""
    filled: Fields = {"models": [*model], "dataset": [dataset] if dataset else []}
    if like is not None:
        filled = fields_of(find_evaluation(like, service, caller).plan.spec)
    return render(
        "new.html",
        root=service.settings.root_path,
        refusal=None if caller.scope.covers(Scope.SUBMIT) else refusal(caller, Scope.SUBMIT),
        models=[each for each in list_models(service, caller) if not isinstance(each, Unusable)],
        datasets=[each for each in list_datasets(service) if not isinstance(each, Unusable)],
        presets=evaluation.list_presets(),
        choices=attacks.describe(),
        filled=filled,
        conditions=[_item(text) for text in filled.get("conditions", ())],
    )


@router.post("/new/condition")
def new_condition(form: Form) -> str:
    """Render an attack or change as an item of the form's list."""
    try:
        require_short(form)
        return _item(condition_of(form).model_dump_json())
    except FormError as error:
        return macro("new_parts.html", "refused", [str(error)])


@router.post("/new/preview")
def preview(form: Form, service: ServiceDep, caller: CallerDep, request: Request) -> str:
    """Render what a form asks for: its size and the same request for a shell and for Python, or what is wrong with it."""
    try:
        require_short(form)
        spec = spec_of(form)
        plan = plan_of(spec, service)
        require_affordable(plan, service, caller)
    except (FormError, ProblemError, ValueError) as error:
        return macro("new_parts.html", "refused", str(error).split("; "))
    body = spec.model_dump(mode="json", exclude_defaults=True, exclude={"conditions"})
    body["conditions"] = [each.model_dump(mode="json") for each in spec.conditions]
    return macro("new_parts.html", "preview", plan, body, str(request.base_url).rstrip("/"))


def _item(condition: str) -> str:
    """A condition, as JSON, with its title."""
    parsed = spec_of({"models": ["any"], "dataset": ["any"], "conditions": [condition]}).conditions[0]
    return macro("new_parts.html", "condition", parsed.title, json.dumps(json.loads(condition)))
