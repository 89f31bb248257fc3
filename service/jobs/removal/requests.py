"""What is removed for good: models that no evaluation needs, and evaluations that have ended."""

from common import UnknownNameError
from evaluation import Catalog
from service.jobs.evaluations import Evaluation
from service.jobs.queue import Queue
from service.jobs.store import Store


class InUseError(RuntimeError):
    """Something needs what was to be removed; the message says what."""


def remove_model(name: str, catalog: Catalog, queue: Queue) -> None:
    """Remove a model that was added, its file and its card.

    Raises:
        UnknownNameError: there is none of that name.
        CheckpointError: it was not added, but lies in another folder.
        InUseError: an evaluation that is not finished needs it.
    """
    catalog.require_added(name)
    if waiting := queue.waiting_for(name):
        raise InUseError(
            f"{name!r} cannot be removed: evaluation {', '.join(waiting)} needs it; wait for its end, or cancel it"
        )
    catalog.remove_model(name)


def remove_evaluation(evaluation_id: str, store: Store) -> None:
    """Remove an evaluation with its results.

    Raises:
        UnknownNameError: there is none of that id.
        InUseError: it has yet to end.
    """
    found = store.remove(evaluation_id)
    if found is None:
        raise UnknownNameError("evaluation", f"there is no evaluation {evaluation_id!r}")
    if isinstance(found, Evaluation) and not found.status.final:
        raise InUseError(
            f"evaluation {evaluation_id} is {found.status} and cannot be removed; wait for its end, or cancel it first"
        )
