"""How the description of the API says that a key is needed; the middleware looks at keys, so that routes declare nothing."""

from typing import Any

from service.http.middleware.api_keys import OPEN

_SCHEMES = {
    "HTTPBearer": {"type": "http", "scheme": "bearer"},
    "APIKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_EITHER = {"security": [{name: []} for name in _SCHEMES]}


def with_keys(api: dict[str, Any]) -> dict[str, Any]:
    """Add to a description how keys are sent, to all routes but those that need none."""
    paths = {
        path: routes if path in OPEN else {method: route | _EITHER for method, route in routes.items()}
        for path, routes in api["paths"].items()
    }
    return api | {"paths": paths, "components": api["components"] | {"securitySchemes": _SCHEMES}}
