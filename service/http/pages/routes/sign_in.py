"""Signing in to the pages with an API key, and out again."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from service.http.access.sessions import COOKIE, SESSION_S, issue, session_caller
from service.http.addresses import network
from service.http.deps import ServiceDep
from service.http.middleware.api_keys import refuse_guesses
from service.http.pages.templates import render
from service.http.problems import ProblemError

LARGEST_BYTES = 10_000
"""Of a form with a key."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/sign-in")
def sign_in_page(
    request: Request, service: ServiceDep, wanted: Annotated[str, Query(alias="next", max_length=2000)] = ""
) -> str:
    """Ask for an API key, or say that there is one already."""
    is_in = session_caller(request.headers, service.callers) is not None
    return _page(service, wanted, is_in=is_in, needed=service.callers.are_known)


@router.post("/sign-in")
async def sign_in(request: Request, service: ServiceDep) -> Response:
    """Set the cookie, and go to the page that was asked for."""
    fields = await _fields(request)
    key, wanted = fields.get("key", ""), fields.get("next", "")
    failures, address = request.app.state.failures, network(request.scope["client"])
    if refused := refuse_guesses(failures, address):
        return refused
    caller = service.callers.find(key)
    if caller is None:
        failures.add(address)
        page = _page(service, wanted, needed=True, wrong=True)
        return HTMLResponse(page, HTTPStatus.UNAUTHORIZED)
    request.scope["caller"] = caller
    root = service.settings.root_path
    answer = RedirectResponse(_own_page(wanted, root), HTTPStatus.SEE_OTHER)
    is_secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, issue(key), SESSION_S, path=root or "/", secure=is_secure, httponly=True, samesite="lax")
    return answer


@router.post("/sign-out")
def sign_out(service: ServiceDep) -> Response:
    """Forget the cookie."""
    root = service.settings.root_path
    answer = RedirectResponse(f"{root}/sign-in", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE, path=root or "/")
    return answer


def _page(service: ServiceDep, wanted: str, *, is_in: bool = False, needed: bool, wrong: bool = False) -> str:
    root = service.settings.root_path
    shown = {"is_in": is_in, "needed": needed, "wrong": wrong, "wanted": wanted, "hours": SESSION_S // 3600}
    return render("sign_in.html", root=root, **shown)


async def _fields(request: Request) -> dict[str, str]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BYTES:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the form has more than {LARGEST_BYTES} bytes, which are allowed"
            )
    return {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}


def _own_page(wanted: str, root: str) -> str:
    """A page of this service; anything else, such as another host, becomes the start page."""
    is_own = (
        wanted.startswith(f"{root}/") and not wanted.startswith("//") and wanted.isprintable() and "\\" not in wanted
    )
    return wanted if is_own else f"{root}/"
