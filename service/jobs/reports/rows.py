"""What happened to the images of a stored evaluation."""

from typing import Any

from evaluation import Catalog, image_rows
from service.jobs.evaluations import Evaluation
from service.jobs.reports.names import dataset_of
from service.jobs.store import Store


def stored_rows(evaluation: Evaluation, store: Store, catalog: Catalog) -> list[dict[str, Any]]:
    """Write one row per image; files are named as long as the data set is the one that was evaluated."""
    dataset = dataset_of(evaluation.plan, catalog)
    return image_rows(evaluation.plan, store.results(evaluation.id), dataset.files if dataset else ())
