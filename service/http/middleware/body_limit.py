"""Refuses bodies that are too large, in the one shape of errors."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Lets requests pass whose body has at most so many bytes; others end with 413 as soon as that is known.

    Args:
        app: what is behind it.
        max_bytes: largest body.
        forms: largest multipart form of paths whose forms go to disk.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, forms: Mapping[str, int] | None = None) -> None:
        self._app, self._max_bytes, self._forms = app, max_bytes, forms or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self._forms.get(scope["path"], self._max_bytes) if is_form else self._max_bytes
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            _require_small(int(announced) if announced.isdecimal() else 0, limit)
            message = await receive()
            received += len(message.get("body", b""))
            _require_small(received, limit)
            return message

        await self._app(scope, receive_some, send)


def _require_small(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        detail = f"the body has at least {size_bytes} bytes, at most {limit_bytes} are allowed"
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
