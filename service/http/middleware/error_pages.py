"""Errors as pages for browsers; every other client gets them as JSON."""

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.pages.templates import render


class ErrorPages:
    """Turns an error into a page with the same status and headers, where a request asks for HTML, as browsers do.

    Args:
        app: what is behind it.
        root: the path prefix of the service.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with another body for errors."""
        if scope["type"] != "http" or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        begun: Message | None = None
        body = b""

        async def send_page(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start" and _is_problem(message):
                begun = message
                return
            if begun is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                page = render("error.html", root=self._root, problem=json.loads(body)).encode()
                await send(_as_page(begun, len(page)))
                await send({"type": "http.response.body", "body": page if scope["method"] != "HEAD" else b""})

        await self._app(scope, receive, send_page)


def _is_problem(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type") == "application/problem+json"


def _as_page(start: Message, length: int) -> Message:
    headers = MutableHeaders(raw=[*start["headers"]])
    headers["content-type"], headers["content-length"] = "text/html; charset=utf-8", str(length)
    headers.add_vary_header("Accept")
    return {**start, "headers": headers.raw}
