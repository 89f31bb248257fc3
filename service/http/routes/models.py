"""Models: listed, read, added, removed."""

import asyncio
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from common import UnknownNameError
from models import (
    HUB_CONFIG,
    OPAQUE,
    Added,
    Checkpoint,
    CheckpointError,
    QuestionsError,
    UnrecognisedError,
    require_suffix,
)
from service.http.bodies.file_uploads import described_form, receive_file
from service.http.bodies.json_bodies import read_json, require_few_values
from service.http.deps import DeploymentDep, ModelName, Service, ServiceDep, require_admin
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
from service.jobs import removal
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


def _view(checkpoint: Checkpoint, sha256: str) -> ModelView:
    card = checkpoint.card().model_dump(include=set(ModelView.model_fields))
    return ModelView.model_validate(card | {"name": checkpoint.name, "sha256": sha256})


@router.get("")
def list_models(service: ServiceDep) -> list[ModelView | Unusable]:
    """List the models with their cards; one that cannot be used, such as for its card, has a `problem` instead."""
    return [_listed(name, checkpoint, service) for name, checkpoint in service.catalog.checkpoints().items()]


def _listed(name: str, checkpoint: Checkpoint, service: Service) -> ModelView | Unusable:
    try:
        return _view(checkpoint, service.catalog.checkpoint_sha256(name))
    except (CheckpointError, UnknownNameError, OSError) as error:  # the latter two if its files are being removed
        return Unusable.of(name, error)


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
def read_model(deployment: DeploymentDep, service: ServiceDep) -> ModelView:
    """Read one model's card; without a version, that of the default one."""
    name = deployment.checkpoint
    return _view(service.catalog.checkpoint(name), service.catalog.checkpoint_sha256(name))


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
