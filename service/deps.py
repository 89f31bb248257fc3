"""What routes need, by name."""

import binascii
import secrets
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, cast

from fastapi import Depends, Path, Request

from evaluation import Catalog
from evaluation.spec import NAME_PATTERN
from service.dispatcher import Dispatcher
from service.errors import ServiceError
from service.explain import Explainer
from service.jobs import Evaluation
from service.predictor import Predictor
from service.settings import Settings
from service.store import Store


@dataclass(frozen=True)
class Service:
    """The parts of a running service; `app.py` builds it."""

    settings: Settings
    catalog: Catalog
    store: Store
    dispatcher: Dispatcher
    predictor: Predictor
    explainer: Explainer
    device: str


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDep = Annotated[Service, Depends(_service)]
ModelName = Annotated[str, Path(pattern=NAME_PATTERN, description="name of a checkpoint")]
EvaluationId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="id of an evaluation, 16 hexadecimal digits")]


def require_key(request: Request, service: ServiceDep) -> None:
    """Let a request pass that carries one of the API keys, if there are any.

    Raises:
        ServiceError: 401.
    """
    keys = service.settings.api_keys
    given = _given_key(request)
    if keys and not any(secrets.compare_digest(given.encode(), key.encode()) for key in keys):
        detail = "an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        error = ServiceError(HTTPStatus.UNAUTHORIZED, detail)
        error.headers["WWW-Authenticate"] = 'Bearer, Basic realm="withstand"'
        raise error


def _given_key(request: Request) -> str:
    """Read the key; a browser asks its user for it and sends it as the password of any name."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return token
        case "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                return b64decode(token, validate=True).decode().partition(":")[2]
            return ""
        case _:
            return request.headers.get("x-api-key", "")


def find_evaluation(evaluation_id: EvaluationId, service: ServiceDep) -> Evaluation:
    """Look up an evaluation.

    Raises:
        ServiceError: there is none (404).
    """
    found = service.store.evaluation(evaluation_id)
    if found is None:
        raise ServiceError(
            HTTPStatus.NOT_FOUND, f"there is no evaluation {evaluation_id!r}; GET /v1/evaluations lists them"
        )
    return found


EvaluationDep = Annotated[Evaluation, Depends(find_evaluation)]
