"""JSON bodies that a route reads itself, because its clients send other bodies too, or no Content-Type."""

from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Body = TypeVar("Body", bound=BaseModel)


def read_json(kind: type[Body], body: bytes) -> Body:
    """Read a body.

    Raises:
        RequestValidationError: it is not JSON, or not of this kind.
    """
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
