"""The page on which one picture is tried; its JSON twin is `POST /v1/models/NAME/try`."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.http.deps import CallerDep, ServiceDep
from service.http.pages.templates import render
from service.http.routes.models import list_models
from service.http.schemas import Unusable

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/playground")
def playground(service: ServiceDep, caller: CallerDep) -> str:
    """The models, and a place to drop a picture."""
    models = [each for each in list_models(service, caller) if not isinstance(each, Unusable)]
    return render("playground.html", root=service.settings.root_path, models=models)
