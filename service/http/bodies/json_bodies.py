"""JSON bodies that a route reads itself, because its clients send other bodies too, or no Content-Type."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")

INLINE_BYTES = 2**16
"""A body up to this size is read on the event loop, in 0.3 ms; one of 64 MiB would hold up all others for 0.3 s."""

MOST_VALUES = 50_000
"""Values in a body: each may become an object, and an error."""


async def read_body(request: Request, read: Callable[[bytes], T], inline_bytes: int = INLINE_BYTES) -> T:
    """Receive a body and read it; one that has more than so many bytes on another thread."""
    chunks = [chunk async for chunk in request.stream()]
    if sum(map(len, chunks)) <= inline_bytes:
        return read(b"".join(chunks))
    return await asyncio.to_thread(lambda: read(b"".join(chunks)))


def require_few_values(body: bytes, most_values: int = MOST_VALUES) -> None:
    """Count the values of a body without parsing it: there is a comma or colon before every value but the first of its container.

    Raises:
        HTTPException: there are too many (413).
    """
    values = body.count(b",") + body.count(b":")
    if values > most_values:
        detail = f"the JSON has too many values: {values} commas and colons, at most {most_values} are allowed"
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def parse_json(body: bytes) -> Any:
    """Parse JSON that is nested at most 200 deep and whose texts are Unicode; `json.loads` accepts halves of surrogate pairs.

    Raises:
        HTTPException: it is not such JSON (422).
    """
    try:
        return from_json(body)
    except ValueError as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body is not JSON: {error}") from error


def read_json(kind: type[Body], body: bytes, most_values: int = MOST_VALUES) -> Body:
    """Read a body.

    Raises:
        HTTPException: it has too many values (413).
        RequestValidationError: it is not JSON, or not of this kind.
    """
    require_few_values(body, most_values)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """Describe a kind of body in OpenAPI, with what its schema refers to written out: OpenAPI keeps definitions elsewhere."""
    schema = kind.model_json_schema()
    return _written_out(schema, schema.pop("$defs", {}))


def _written_out(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_written_out(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _written_out(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _written_out(each, definitions) for key, each in schema.items()}
