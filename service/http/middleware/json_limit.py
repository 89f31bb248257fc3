"""Refuses JSON that is too deep, has too many values or cannot be text, before a route makes objects of it."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.bodies.json_bodies import parse_json, require_few_values
from service.http.bodies.picture_uploads import media_type
from service.http.load_shedding import PREDICTING

MOST_BYTES = 2**20
"""Of a body without pictures and tensors."""


class JsonLimit:
    """Looks at JSON bodies when they are read, as `json_bodies` says; predictions look at theirs themselves.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http" or scope["path"].endswith(PREDICTING) or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()

        async def receive_checked() -> Message:
            while (message := await receive())["type"] == "http.request":
                body.extend(message.get("body", b""))
                if len(body) > MOST_BYTES:
                    detail = f"the JSON has at least {len(body)} bytes, at most {MOST_BYTES} are allowed"
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
                if not message.get("more_body", False):
                    break
            else:
                return message
            require_few_values(bytes(body))
            if body:
                parse_json(bytes(body))
            return {"type": "http.request", "body": bytes(body)}

        await self._app(scope, receive_checked, send)


def _is_json(scope: Scope) -> bool:
    return media_type(Headers(scope=scope).get("content-type", "")).endswith("json")
