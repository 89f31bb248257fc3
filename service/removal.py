"""Models that are removed: not while an evaluation needs them."""

from evaluation import Catalog
from service.store import Store


class InUseError(RuntimeError):
    """Something needs what was to be removed; the message says what."""


def remove_model(name: str, catalog: Catalog, store: Store) -> None:
    """Remove a model that was added, its file and its card.

    Raises:
        UnknownNameError: there is none of that name.
        CheckpointError: it was not added, but lies in another folder.
        InUseError: an evaluation that is not finished needs it.
    """
    catalog.require_added(name)
    if waiting := store.waiting_for(name):
        raise InUseError(
            f"{name!r} cannot be removed: evaluation {', '.join(waiting)} needs it; wait for its end, or cancel it"
        )
    catalog.remove_model(name)
