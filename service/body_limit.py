"""Refuses bodies that are too large, in the one shape of errors."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Lets requests pass whose body has at most so many bytes; others end with 413 as soon as that is known.

    Args:
        app: what is behind it.
        max_bytes: largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            self._require_small(int(announced) if announced.isdecimal() else 0)
            message = await receive()
            received += len(message.get("body", b""))
            self._require_small(received)
            return message

        await self._app(scope, receive_some, send)

    def _require_small(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            detail = f"the body has at least {size_bytes} bytes, allowed are {self._max_bytes}"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
