"""Refuses changes that pages of other sites ask for: their readers' browsers reach this service, and send stored passwords."""

from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.access.scopes import READING
from service.http.problems import LONGEST_ECHO, problem


class Origins:
    """Lets requests pass that only read, that own pages, pages of allowed origins or no browser sent, or that carry an API key.

    A browser says where a request comes from, in `Sec-Fetch-Site` or in `Origin`; a page of another site cannot set a header
    that carries a key without asking for permission first, which only those of allowed origins get. Other clients send neither.

    Args:
        app: what is behind it.
        allowed: origins of other sites whose pages may ask, such as "https://lab.example.org".
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 403."""
        answer = self._app
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            if not (is_own(headers) or _has_key(headers) or headers.get("origin") in self._allowed):
                origin = headers.get("origin", "another site")[:LONGEST_ECHO]
                answer = problem(
                    HTTPStatus.FORBIDDEN,
                    f"a page of {origin} sent this {scope['method']}; only pages of this service may do that, and clients "
                    "that are no browsers",
                )
        await answer(scope, receive, send)


def is_own(headers: Headers) -> bool:
    """Whether a request is from a page of this service, or from no page."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in {"same-origin", "none"}
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def _has_key(headers: Headers) -> bool:
    return "x-api-key" in headers or headers.get("authorization", "").lower().startswith("bearer ")
