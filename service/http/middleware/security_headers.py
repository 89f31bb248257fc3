"""What browsers are told about answers: to take them for what they say they are, and what a page may load."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # a cell's colour is a style of its own
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""A route that needs another one sends it itself."""

NOSNIFF = (b"x-content-type-options", b"nosniff")


class SecurityHeaders:
    """Answers carry `X-Content-Type-Options`; pages a content security policy and a referrer policy as well.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add to the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [NOSNIFF]
                if _is_page(message):
                    headers = MutableHeaders(scope=message)
                    headers.setdefault("Content-Security-Policy", PAGE_POLICY)
                    headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _is_page(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])
