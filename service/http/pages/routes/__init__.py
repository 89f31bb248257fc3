"""The routes of the pages, a module for each."""

from service.http.pages.routes import (
    comparison,
    datasets,
    evaluation,
    evaluations,
    models,
    new_evaluation,
    playground,
    queue,
    start,
)

PAGES = (start, new_evaluation, models, datasets, evaluations, evaluation, comparison, playground, queue)
"""Those that there are; what each shows is under /v1 as JSON."""
