"""Names of what stored results count, as long as what was evaluated is still here."""

from contextlib import suppress

from common import UnknownNameError
from evaluation import Catalog, DatasetError, ImageFolder, Plan
from models import CheckpointError


def classes_of(plan: Plan, model: str, catalog: Catalog) -> tuple[str, ...]:
    """Names of the logits of one of an evaluation's models; empty if the model was removed, or is another one by now."""
    with suppress(UnknownNameError, CheckpointError, OSError):
        if catalog.model_sha256(model) == plan.model_sha256[model]:
            return catalog.checkpoint(model).card().classes
    return ()


def dataset_of(plan: Plan, catalog: Catalog) -> ImageFolder | None:
    """The data set of an evaluation; None if it was removed, or is another one by now."""
    with suppress(UnknownNameError, DatasetError):
        dataset = catalog.open_dataset(plan.spec.dataset)
        return dataset if dataset.sha256 == plan.dataset_sha256 else None
    return None
