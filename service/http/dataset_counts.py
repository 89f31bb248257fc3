"""What the list of data sets says of each: counted in the background, so that the list answers at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from evaluation import Catalog, DatasetError
from evaluation.data.notes import Notes
from service.http.schemas import DatasetView, Unusable


class DatasetCounts:
    """Counts data sets on one thread; every look at the list has them counted anew, and shows what was last known.

    Args:
        catalog: where data sets are.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._lock = Lock()
        self._known: dict[Path, DatasetView | Unusable] = {}
        self._counting: set[Path] = set()

    def stop(self) -> None:
        """End; the data set that is being counted is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def views(self) -> list[DatasetView | Unusable]:
        """List the data sets; images, classes and hash are None until they are counted, or it is known that they cannot be."""
        found: list[DatasetView | Unusable] = []
        for name, path in self._catalog.datasets().items():
            with self._lock:
                if path not in self._counting:
                    self._counting.add(path)
                    self._pool.submit(self._count, name, path)
                found.append(self._known[path] if path in self._known else self._noted(name, path))
        return found

    def _noted(self, name: str, path: Path) -> DatasetView:
        facts = Notes(path, self._catalog.notes).facts
        known = {"images": facts.images, "classes": facts.classes, "sha256": facts.sha256} if facts.images else {}
        view = self._known[path] = DatasetView.model_validate({"name": name, **known})
        return view

    def _count(self, name: str, path: Path) -> None:
        try:
            dataset = self._catalog.open_dataset(name)
            view = DatasetView.of(name, dataset)
            facts = dataset.notes.facts
            if (facts.images, facts.classes) != (view.images, view.classes):
                dataset.notes.update(images=view.images, classes=view.classes)
        except (DatasetError, OSError, ValueError) as error:
            view = Unusable.of(name, error)
        with self._lock:
            self._known[path] = view
            self._counting.discard(path)
