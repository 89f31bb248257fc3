"""The page with all evaluations, to be searched; its JSON twin is /v1/evaluations."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from service.http.deps import CallerDep, ServiceDep
from service.http.pages.templates import render
from service.http.routes.evaluations import Search, view_of
from service.jobs.evaluations import Damaged, Evaluation

SHOWN = 50
"""Evaluations on one page."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/evaluations")
def evaluations(
    service: ServiceDep,
    caller: CallerDep,
    search: Search = "",
    before: Annotated[int | None, Query(ge=0, lt=2**63, description="submitted before the one of this number")] = None,
) -> str:
    """All evaluations, the newest first, or those that a search finds."""
    found = service.store.evaluations(limit=SHOWN, before=before, owner=caller.owner, search=search)
    return render(
        "evaluations.html",
        root=service.settings.root_path,
        evaluations=[view_of(each, service) for each in found if isinstance(each, Evaluation)],
        damaged=[each for each in found if isinstance(each, Damaged)],
        search=search,
        older=found[-1].sequence if len(found) == SHOWN else None,
        may_remove=caller.is_admin,
    )
