"""One shape for every error: problem+json (RFC 9457), with the members `errors` (one row per field) and `error` (the detail)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from attacks import AttackError
from common import UnknownNameError
from common.pictures import PictureError
from evaluation import ComparisonError, DatasetError, FormatError
from evaluation.catalog import DatasetTakenError
from models import CheckpointError, GraphError, NameTakenError, NoAttentionError
from service.jobs.queries import DamagedEvaluationError, KeyReusedError
from service.jobs.queue import SharedEvaluationError, WrongStatusError
from service.jobs.removal.requests import InUseError
from service.serving.errors import KeyLimitError, NotLoadedError, OverloadedError, StuckError, TooLateError
from service.serving.predictions import FieldError
from service.sql.database import StoreError

CLIENT_LEFT = 499
"""Status of requests whose client closed the connection, as nginx logs them; nobody receives it."""

LONGEST_ECHO = 200
"""Characters of a received value, or of the name of an unknown field, that an error repeats."""

LONGEST_DETAIL = 10_000
"""Characters of what an error says: a message may repeat something that was received."""

MOST_FIELDS = 20
"""Wrong fields that an error lists."""


class Problem(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str
    errors: list[FieldError] = []


def described() -> dict[str, Any]:
    """Describe the errors of a route in OpenAPI."""
    schema = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    del schema["$defs"]  # `FieldError` is among the components already, as a part of predictions
    return {
        "description": "what was wrong, what was received, what is allowed",
        "content": {"application/problem+json": {"schema": schema}},
    }


class ProblemError(Exception):
    """An error that HTTP alone knows, with its status and more members of its body; raised by routes and what they call."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        members: BaseModel | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.errors, self.headers, self.members = status, errors, headers, members


STATUSES: dict[type[Exception], HTTPStatus] = {
    UnknownNameError: HTTPStatus.NOT_FOUND,
    SharedEvaluationError: HTTPStatus.FORBIDDEN,
    InUseError: HTTPStatus.CONFLICT,
    WrongStatusError: HTTPStatus.CONFLICT,
    NameTakenError: HTTPStatus.CONFLICT,
    DatasetTakenError: HTTPStatus.CONFLICT,
    ComparisonError: HTTPStatus.CONFLICT,
    KeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    PictureError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CheckpointError: HTTPStatus.UNPROCESSABLE_ENTITY,
    GraphError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoAttentionError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DatasetError: HTTPStatus.UNPROCESSABLE_ENTITY,
    AttackError: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyLimitError: HTTPStatus.TOO_MANY_REQUESTS,
    FormatError: HTTPStatus.NOT_IMPLEMENTED,
    DamagedEvaluationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    OverloadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    NotLoadedError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    StuckError: HTTPStatus.SERVICE_UNAVAILABLE,
    TooLateError: HTTPStatus.GATEWAY_TIMEOUT,
}
"""How errors of the layers below are answered; for a class that is not listed, its nearest listed base class decides."""

FIELDS: dict[type[Exception], str] = {
    NameTakenError: "name",
    DatasetTakenError: "name",
    KeyReusedError: "Idempotency-Key",
}
"""The field of a request that such an error is about."""


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    members: BaseModel | None = None,
) -> JSONResponse:
    """Build an error response; RFC 9457 allows more members than the common ones."""
    detail = shortened(detail, LONGEST_DETAIL)
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, error=detail, errors=list(errors))
    more = {} if members is None else members.model_dump(mode="json")
    return JSONResponse(body.model_dump() | more, status, headers=headers, media_type="application/problem+json")


def install(app: FastAPI, statuses: Mapping[type[Exception], HTTPStatus]) -> None:
    """Answer every error of the application with a problem.

    Args:
        app: the application.
        statuses: of errors of the layers above, which are answered as those of STATUSES are.
    """
    known = STATUSES | dict(statuses)

    def known_error(_request: Request, error: Exception) -> JSONResponse:
        return known_problem(error, known)

    app.add_exception_handler(ProblemError, _problem_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_exception_handler(Exception, _unexpected)
    for kind in known:
        app.add_exception_handler(kind, known_error)


def known_problem(error: Exception, statuses: Mapping[type[Exception], HTTPStatus] = STATUSES) -> JSONResponse:
    """Build the response of an error that has a status."""
    kinds = type(error).__mro__
    status = next(statuses[kind] for kind in kinds if kind in statuses)
    errors = [FieldError(field=FIELDS[kind], message=str(error)) for kind in kinds if kind in FIELDS]
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, OverloadedError) else None
    return problem(status, str(error), errors=errors, headers=headers)


def _problem_error(_request: Request, error: Exception) -> JSONResponse:
    failure = cast(ProblemError, error)
    return problem(
        failure.status, str(failure), errors=failure.errors, headers=failure.headers, members=failure.members
    )


def _http_error(request: Request, error: Exception) -> JSONResponse:
    failure = cast(HTTPException, error)
    allowed = _allowed(request) if failure.status_code == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return problem(failure.status_code, str(failure.detail), headers={**(failure.headers or {}), **allowed})


def _allowed(request: Request) -> dict[str, str]:
    """List the methods of all routes of a path, as the description has them; the router knows those of the first one."""
    app = cast(FastAPI, request.app)
    methods = app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", ""), {})
    listed = [*map(str.upper, methods), *(["HEAD"] if "get" in methods else [])]
    return {"Allow": ", ".join(listed)} if listed else {}


def _nobody_there(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}; the server's log has the details"
    )


def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    errors = _without_emptied(cast(RequestValidationError, error).errors())
    fields = field_errors(errors[:MOST_FIELDS])
    more = [f"and {len(errors) - MOST_FIELDS} more"] if len(errors) > MOST_FIELDS else []
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join([*map(str, fields), *more]), errors=fields)


def _without_emptied(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out containers that lost items: the items are named themselves."""
    containers = {each["loc"][:depth] for each in errors for depth in range(len(each["loc"]))}
    return [each for each in errors if each["type"] != "too_short" or each["loc"] not in containers]


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Turn pydantic's errors into ours; a container whose items are wrong is not named again for having lost them."""
    return [_field_error(each) for each in _without_emptied(errors)]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    path = tuple(map(str, error["loc"]))
    received = None if error["type"] == "missing" or not path else shortened(repr(error["input"]), LONGEST_ECHO)
    name = ".".join(path[1:] if path and path[0] in {"body", "query", "path", "header"} and len(path) > 1 else path)
    message = error["msg"].removeprefix("Value error, ")
    return FieldError(
        field=shortened(name, LONGEST_ECHO), message=shortened(message, LONGEST_DETAIL), received=received
    )


def shortened(text: str, most: int) -> str:
    """Cut a text off after so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
