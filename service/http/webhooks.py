"""What webhooks are asked for with, and what is sent to them."""

from typing import Literal, Self

from pydantic import BaseModel

from evaluation.compute.checks import Grade
from evaluation.reports.report import ModelReport
from evaluation.statistics import Proportion
from service.http.schemas import EvaluationView
from service.jobs.evaluations import Damaged, Evaluation, Status
from service.jobs.reports.counted import Reports

MAX_BYTES = 3072
"""The largest body of a webhook."""

MAX_ERROR = 300
"""Characters of an error that are sent."""


class Headline(BaseModel):
    """The scores of a model: `lowest` is its lowest one under any condition, robust accuracy where something attacks."""

    model: str
    grade: Grade
    clean_accuracy: Proportion | None
    lowest: Proportion | None

    @classmethod
    def of(cls, found: ModelReport) -> Self:
        """Pick the scores of a model."""
        return cls(
            model=found.model,
            grade=found.grade,
            clean_accuracy=found.clean_accuracy,
            lowest=found.lowest.score if found.lowest else None,
        )


class EvaluationEnded(BaseModel):
    """The body of a webhook; models that do not fit into `MAX_BYTES` are counted, and the report has them."""

    type: Literal["evaluation.done", "evaluation.failed", "evaluation.cancelled"]
    id: str
    status: Status
    error: str | None
    links: dict[str, str]
    models: list[Headline] = []
    models_left_out: int = 0


def describe(evaluation: Evaluation | Damaged, reports: Reports, root: str) -> str:
    """Write the body for an evaluation that has ended; `root` is the path prefix of the service."""
    if isinstance(evaluation, Damaged):
        return _ended(evaluation.id, Status.FAILED, evaluation.problem, {}).model_dump_json()
    view = EvaluationView.of(evaluation, root=root)
    ended = _ended(view.id, view.status, view.error, view.links)
    ended.models = [Headline.of(each) for each in reports.of(evaluation).models]
    while len((body := ended.model_dump_json()).encode()) > MAX_BYTES and ended.models:
        ended.models.pop()
        ended.models_left_out += 1
    return body


def _ended(evaluation_id: str, status: Status, error: str | None, links: dict[str, str]) -> EvaluationEnded:
    shown = None if error is None else error[:MAX_ERROR]
    return EvaluationEnded.model_validate(
        {"type": f"evaluation.{status}", "id": evaluation_id, "status": status, "error": shown, "links": links}
    )
