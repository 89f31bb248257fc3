"""The start page: what runs, and the latest results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse

from service.http.deps import CallerDep, ServiceDep
from service.http.etags import unless_known
from service.http.pages.sections import Section, changed
from service.http.pages.templates import macro, render
from service.http.routes.evaluations import view_of
from service.http.routes.queue import list_devices, read_queue
from service.jobs.evaluations import Damaged, Evaluation

UNFINISHED_SHOWN = 4
"""Evaluations that have not ended; the page of the queue has all."""

RESULTS_SHOWN = 12
"""Evaluations that have ended."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True)
class Start:
    """What the start page shows is made of."""

    service: ServiceDep
    caller: CallerDep
    request: Request
    before: Annotated[
        int | None, Query(ge=0, lt=2**63, description="results of evaluations that were submitted before this one")
    ] = None


StartDep = Annotated[Start, Depends()]


@router.get("/")
def index(start: StartDep) -> Response:
    """What runs, and the latest results."""
    root = start.service.settings.root_path
    page = render("index.html", root=root, before=start.before, sections=[*_start(start)])
    return unless_known(start.request, page, lambda: HTMLResponse(page))


@router.post("/changes")
def index_changes(known: list[str], start: StartDep) -> str:
    """Render the sections of the start page whose hashes are not known."""
    return changed([*_start(start)], {*known})


def _start(start: Start) -> Iterator[Section]:
    service, caller, before = start.service, start.caller, start.before
    root = service.settings.root_path
    unfinished = service.queue.unfinished(limit=UNFINISHED_SHOWN + 1, owner=caller.owner)
    ended = service.store.evaluations(limit=RESULTS_SHOWN, before=before, owner=caller.owner, ended=True)
    older = ended[-1].sequence if len(ended) == RESULTS_SHOWN else None
    rows = service.result_rows.of(each for each in ended if isinstance(each, Evaluation))
    cards = [view_of(each, service) for each in unfinished[:UNFINISHED_SHOWN] if isinstance(each, Evaluation)]
    damaged = [each for each in (*unfinished, *ended) if isinstance(each, Damaged)]
    catalog = service.catalog
    models, datasets = [*catalog.checkpoints()], [*catalog.datasets()]

    def section(name: str, *values: object) -> Section:
        return Section(name, macro("start.html", name, *values))

    yield section("overview", list_devices(service, caller).devices, read_queue(service, caller, limit=1), root)
    yield section("catalog", len(models), len(datasets), root)
    is_empty = not unfinished and not ended and before is None
    yield section("hint", is_empty, str(start.request.base_url).rstrip("/"), models, datasets)
    yield section("unfinished", cards, len(unfinished) > UNFINISHED_SHOWN, root)
    yield section("results", rows, before, older, root)
    yield section("damaged", damaged)
