"""Parameters of the routes that answer most requests: FastAPI's dependencies would hold Python's lock for 0.2 ms each time.

Such a route takes the request alone. A model declares its parameters; they are described and refused as FastAPI does it.
"""

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Parameters = TypeVar("Parameters", bound=BaseModel)


def read_parameters(kind: type[Parameters], request: Request) -> Parameters:
    """Read the parameters of a request from its path and its query.

    Raises:
        RequestValidationError: one of them is not allowed.
    """
    in_path = request.path_params
    query = request.query_params if request.scope["query_string"] else {}
    try:
        return kind.model_validate({**query, **in_path})
    except ValidationError as error:
        place = dict.fromkeys(in_path, "path")
        errors = [each | {"loc": (place.get(str(each["loc"][0]), "query"), *each["loc"])} for each in error.errors()]
        raise RequestValidationError(errors) from error


def describe_parameters(kind: type[BaseModel], *in_path: str) -> list[dict[str, Any]]:
    """Describe a route's parameters for OpenAPI; all but those in the path are in the query, and optional."""
    properties: dict[str, dict[str, Any]] = kind.model_json_schema()["properties"]
    return [
        {"name": name, "in": "path" if name in in_path else "query", "required": name in in_path, "schema": schema}
        | {key: schema[key] for key in ("description",) if key in schema}
        for name, schema in sorted(properties.items(), key=lambda each: each[0] not in in_path)
    ]
