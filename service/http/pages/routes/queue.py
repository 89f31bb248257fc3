"""The page of devices and queue; its JSON twins are /v1/devices, /v1/queue and /v1/failures."""

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from service.http.deps import Caller, CallerDep, Service, ServiceDep
from service.http.etags import unless_known
from service.http.pages.sections import Section, changed
from service.http.pages.templates import macro, render
from service.http.routes.queue import list_devices, list_failures, read_queue

WAITING_SHOWN = 30
"""Evaluations that wait."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/queue")
def queue_page(service: ServiceDep, caller: CallerDep, request: Request) -> Response:
    """What runs where, what waits in which order, and what failed of late."""
    page = render("queue.html", root=service.settings.root_path, sections=[*_sections(service, caller)])
    return unless_known(request, page, lambda: HTMLResponse(page))


@router.post("/queue/changes")
def queue_changes(known: list[str], service: ServiceDep, caller: CallerDep) -> str:
    """Render the sections of the page whose hashes are not known."""
    return changed([*_sections(service, caller)], {*known})


def _sections(service: Service, caller: Caller) -> Iterator[Section]:
    root, queue = service.settings.root_path, read_queue(service, caller, limit=WAITING_SHOWN)

    def section(name: str, *values: object) -> Section:
        return Section(name, macro("queue_parts.html", name, *values))

    yield section("devices", list_devices(service, caller).devices, root)
    yield section("queue", queue, root, caller.is_admin)
    yield section("waiting", queue, root)
    yield section("failures", list_failures(service, caller).failures, root)
