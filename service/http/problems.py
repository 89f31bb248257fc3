"""One shape for every error: problem+json (RFC 9457) with the members `errors` (a row a field) and `error` (the detail again)."""

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
from evaluation import DatasetError
from models import CheckpointError
from service.kserve.tensors import TensorError, TooLargeError

CLIENT_LEFT = 499
"""Status of requests whose client closed the connection, as nginx logs them; nobody receives it."""

LONGEST_ECHO = 200
"""Characters of a received value that an error repeats."""


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str
    received: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


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


class ServiceError(Exception):
    """An error with its HTTP status, and with more members of its body; raised by routes and what they call."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        members: BaseModel | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.members = status, detail, list(errors), members
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


_STATUS: dict[type[Exception], HTTPStatus] = {
    UnknownNameError: HTTPStatus.NOT_FOUND,
    PictureError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CheckpointError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DatasetError: HTTPStatus.UNPROCESSABLE_ENTITY,
    AttackError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,  # a TensorError too, so it comes first
    TensorError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    members: BaseModel | None = None,
) -> JSONResponse:
    """Build an error response; RFC 9457 allows more members than the common ones."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, error=detail, errors=list(errors))
    more = {} if members is None else members.model_dump(mode="json")
    return JSONResponse(body.model_dump() | more, status, headers=headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_exception_handler(Exception, _unexpected)
    for kind in _STATUS:
        app.add_exception_handler(kind, _known_error)


def _service_error(_request: Request, error: Exception) -> JSONResponse:
    return service_problem(cast(ServiceError, error))


def service_problem(failure: ServiceError) -> JSONResponse:
    """Build the response of an error."""
    return problem(
        failure.status, failure.detail, errors=failure.errors, headers=failure.headers, members=failure.members
    )


def _known_error(_request: Request, error: Exception) -> JSONResponse:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return problem(status, str(error))


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    failure = cast(HTTPException, error)
    return problem(failure.status_code, str(failure.detail), headers=failure.headers)


def _nobody_there(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}; the server's log has the details"
    )


def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    fields = field_errors(cast(RequestValidationError, error).errors())
    detail = "; ".join(map(str, fields))
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=fields)


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Turn pydantic's errors into ours; a container whose items are wrong is not named again for having lost them."""
    paths = [tuple(map(str, each["loc"])) for each in errors]
    fields: list[FieldError] = []
    for path, each in zip(paths, errors, strict=True):
        emptied = each["type"] == "too_short" and any(len(p) > len(path) and p[: len(path)] == path for p in paths)
        if emptied:
            continue
        received = None if each["type"] == "missing" or not path else repr(each["input"])[:LONGEST_ECHO]
        name = ".".join(path[1:] if path and path[0] in {"body", "query", "path", "header"} and len(path) > 1 else path)
        fields.append(FieldError(field=name, message=each["msg"].removeprefix("Value error, "), received=received))
    return fields
