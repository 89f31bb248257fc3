"""Data sets that models can be evaluated on."""

import logging

from fastapi import APIRouter

from evaluation import DatasetError
from service.deps import ServiceDep
from service.schemas import DatasetView

_log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.get("")
def list_datasets(service: ServiceDep) -> list[DatasetView]:
    """List the data sets. One that cannot be read is left out; submitting an evaluation on it tells why."""
    views: list[DatasetView] = []
    for name in service.catalog.datasets():
        try:
            dataset = service.catalog.open_dataset(name)
        except DatasetError as error:
            _log.warning("data set %s is left out: %s", name, error)
            continue
        views.append(DatasetView(name=name, images=len(dataset), classes=dataset.classes, sha256=dataset.sha256))
    return views
