"""Parameters, multiplications and attention layers of models, counted in the background, once for each checkpoint and card."""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from models import OPAQUE, ModelCard
from models.macs import Structure, structure


class ModelStructures:
    """Counts on one thread, so that a list of models answers at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="structure")
        self._lock = Lock()
        self._found: dict[str, Future[Structure | None]] = {}

    def stop(self) -> None:
        """End; what is being counted is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_counting(self) -> bool:
        """Whether something was asked for that is not known yet."""
        with self._lock:
            return not all(each.done() for each in self._found.values())

    def of(self, sha256: str, card: ModelCard) -> Structure | None:
        """Look at a model; None if it brings its own graph, if its card fits no network, or if it is not known yet.

        Args:
            sha256: of what decides the model's answers, its card among it.
            card: of the model.
        """
        with self._lock:
            if sha256 not in self._found:
                self._found[sha256] = self._pool.submit(_look, card)
            found = self._found[sha256]
        return found.result() if found.done() else None


def _look(card: ModelCard) -> Structure | None:
    if card.architecture in OPAQUE:
        return None
    try:
        return structure(card)
    except (TypeError, ValueError, RuntimeError, LookupError):  # what loads it says why
        return None
