"""What happened to the images of a stored evaluation."""

from contextlib import suppress
from typing import Any

from common import UnknownNameError
from evaluation import Catalog, DatasetError, image_rows
from service.jobs.evaluations import Evaluation
from service.jobs.store import Store


def stored_rows(evaluation: Evaluation, store: Store, catalog: Catalog) -> list[dict[str, Any]]:
    """Write one row per image; files are named as long as the data set is the one that was evaluated."""
    plan = evaluation.plan
    files: tuple[str, ...] = ()
    with suppress(UnknownNameError, DatasetError):
        dataset = catalog.open_dataset(plan.spec.dataset)
        files = dataset.files if dataset.sha256 == plan.dataset_sha256 else ()
    return image_rows(plan, store.results(evaluation.id), files)
