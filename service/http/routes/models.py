"""Models: listed, read, added, removed."""

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from common import UnknownNameError
from models import (
    HUB_CONFIG,
    OPAQUE,
    Added,
    CheckpointError,
    ModelCard,
    QuestionsError,
    UnrecognisedError,
    require_suffix,
)
from service.http.bodies.file_uploads import described_form, receive_file
from service.http.bodies.json_bodies import read_json, require_few_values
from service.http.deps import CallerDep, DeploymentDep, ModelName, Service, ServiceDep, require_admin
from service.http.problems import ProblemError
from service.http.schemas import (
    AddedModel,
    DifferencesView,
    ModelRequest,
    ModelView,
    OpenQuestions,
    QuestionView,
    Unusable,
)
from service.jobs.removal import requests as removal
from service.jobs.reports.measurements import Measured
from service.serving.deployments import Deployment, version_of
from service.serving.predictions import FieldError

router = APIRouter(prefix="/v1/models", tags=["models"])

_NEW_MODEL = described_form(
    "model",
    card={"type": "string", "description": "JSON: fields of the card that are known, some or all"},
    config={"type": "string", "description": "the `config.json` that the Hugging Face hub has beside the file"},
    accept_likely={"type": "boolean", "default": False},
)
_NEW_MODEL["content"]["application/json"] = {"schema": ModelRequest.model_json_schema()}


COUNTING_S = 0.4
"""How long a list of models counts evaluations that nobody has looked at yet, seconds; the rest is counted for the next one."""


@router.get("")
def list_models(service: ServiceDep, caller: CallerDep) -> list[ModelView | Unusable]:
    """List the models with their cards; one that cannot be used, such as for its card, has a `problem` instead.

    What was measured is that of the latest evaluation that is done, among the last 100 of those that the API key sees.
    """
    found = {name: _known(name, service) for name in service.catalog.checkpoints()}
    usable = {name: each for name, each in found.items() if not isinstance(each, Unusable)}
    latest = service.measurements.latest({name: each.sha256 for name, each in usable.items()}, caller.owner)
    until = time.monotonic() + COUNTING_S
    measured = {
        name: service.measurements.of(name, each, may_count=time.monotonic() < until) for name, each in latest.items()
    }
    return [
        each if isinstance(each, Unusable) else _view(name, each, service, measured.get(name))
        for name, each in found.items()
    ]


class _Known(NamedTuple):
    """A model's card, and the hashes of what decides its answers and of its file."""

    card: ModelCard
    sha256: str
    file_sha256: str


def _known(name: str, service: Service) -> _Known | Unusable:
    catalog = service.catalog
    try:
        return _Known(catalog.checkpoint(name).card(), catalog.model_sha256(name), catalog.checkpoint_sha256(name))
    except (CheckpointError, UnknownNameError, OSError) as error:  # the latter two if its files are being removed
        return Unusable.of(name, error)


def _view(name: str, known: _Known, service: Service, measured: Measured | None) -> ModelView:
    found = service.model_structures.of(known.sha256, known.card)
    counted: Mapping[str, object] = {}
    if found is not None:
        cost = found.cost
        counted = {"parameters": cost.parameters, "macs": cost.macs, "attention_layers": found.attention_layers}
    facts = {"name": name, "sha256": known.file_sha256, "measured": measured}
    return ModelView.model_validate(known.card.model_dump(include=set(ModelView.model_fields)) | facts | counted)


@router.post(
    "", status_code=HTTPStatus.CREATED, openapi_extra={"requestBody": _NEW_MODEL}, dependencies=[Depends(require_admin)]
)
async def add_model(request: Request, service: ServiceDep, response: Response) -> AddedModel:
    """Add a checkpoint: a multipart form with its `file`, or JSON with the `path` of a file in one of the model folders.

    Architecture and options are read off the tensors. What they do not tell must be in `card`, or the likely answers accepted;
    otherwise the answer is 422 with the questions and a card to complete.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        store = service.catalog.store or service.settings.data_dir
        async with receive_file(request, store, require_suffix) as (file, sent_as, fields):
            if config := fields.pop("config", None):
                file.with_name(HUB_CONFIG).write_bytes(config)
            body = _model_request({"path": sent_as} | {name: _read_field(name, data) for name, data in fields.items()})
            added = await asyncio.to_thread(_add, service, file, body)
    else:
        body = read_json(ModelRequest, await request.body())
        added = await asyncio.to_thread(lambda: _add(service, service.catalog.model_file(body.path), body))
    view = AddedModel.of(added, root=service.settings.root_path)
    response.headers["Location"] = view.links["self"]
    return view


def _read_field(name: str, data: bytes) -> object:
    text = data.decode(errors="replace")
    if name != "card":
        return text
    require_few_values(data)
    try:
        return from_json(data)
    except ValueError:
        return text  # refused as not being a mapping


def _model_request(body: object) -> ModelRequest:
    try:
        return ModelRequest.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def _add(service: Service, file: Path, body: ModelRequest) -> Added:
    if body.card.get("architecture") in OPAQUE and not service.settings.allow_graphs:
        detail = "files that bring their own graph can run code; the service accepts them only with WITHSTAND_ALLOW_GRAPHS=true"
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)
    name = body.name or Path(body.path).stem
    try:
        return service.catalog.add_model(file, name, body.card, accept_likely=body.accept_likely)
    except QuestionsError as error:
        raise _open_questions(error) from error
    except UnrecognisedError as error:
        members = DifferencesView.of(error.nearest)
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), members=members) from error


def _open_questions(error: QuestionsError) -> ProblemError:
    questions = [QuestionView.of(each) for each in error.draft.questions]
    errors = [FieldError(field=f"card.{each.field}", message=f"{each.why}; likely {each.likely}") for each in questions]
    members = OpenQuestions(questions=questions, card=error.draft.card)
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=errors, members=members)


@router.get("/{name}")
def read_model(deployment: DeploymentDep, service: ServiceDep, caller: CallerDep) -> ModelView:
    """Read one model's card, without a version that of the default one, and what was measured, class by class."""
    name = deployment.checkpoint
    known = _Known(deployment.card, deployment.sha256, service.catalog.checkpoint_sha256(name))
    latest = service.measurements.latest({name: known.sha256}, caller.owner).get(name)
    measured = None
    if latest is not None:
        classes = service.measurements.by_class(name, latest, known.card.classes)
        measured = service.measurements.of(name, latest).model_copy(update={"classes": classes})
    return _view(name, known, service, measured)


@router.delete("/{name}", status_code=HTTPStatus.NO_CONTENT, dependencies=[Depends(require_admin)])
def remove_model(name: ModelName, service: ServiceDep) -> None:
    """Remove a model that was added, its file and its card; a version is named as in `mine@2`.

    Models of the zoo and of model folders are refused (422), and one that an unfinished evaluation needs (409).
    """
    model, version = name.partition("@")[0], version_of(name)
    loaded = _usable(service, model, version)
    removal.remove_model(name, service.catalog, service.queue)
    if loaded is not None:
        service.control.unload(loaded)
    service.deployments.forget(model)


def _usable(service: Service, model: str, version: str) -> Deployment | None:
    """What may be in memory; a broken model, which can be removed too, is not."""
    try:
        return service.deployments.find(model, version)
    except CheckpointError:
        return None
