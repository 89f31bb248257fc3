"""Pages for people; each has a JSON twin under /v1."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from evaluation import merge
from evaluation.charts import charts
from service.deps import EvaluationDep, ServiceDep
from service.formats import ReportFormat
from service.pages import render
from service.routes.datasets import list_datasets
from service.routes.evaluations import list_evaluations
from service.routes.models import list_models
from service.schemas import EvaluationView

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def index(service: ServiceDep, request: Request) -> str:
    """Models, data sets, and evaluations with live progress."""
    page = list_evaluations(service)
    return render(
        "index.html",
        url=str(request.base_url).rstrip("/"),
        models=list_models(service),
        datasets=list_datasets(service),
        evaluations=page.evaluations,
    )


@router.get("/evaluations/{evaluation_id}")
def evaluation(evaluation: EvaluationDep, service: ServiceDep) -> str:
    """One evaluation: progress while it runs, and its report so far."""
    report = merge(evaluation.plan, service.store.results(evaluation.id))
    view = EvaluationView.of(evaluation, report)
    return render("evaluation.html", evaluation=view, charts=charts(report), forms=list(ReportFormat))
