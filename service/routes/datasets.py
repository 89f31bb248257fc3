"""Data sets that models can be evaluated on."""

from fastapi import APIRouter

from service.deps import ServiceDep
from service.schemas import DatasetView

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.get("")
def list_datasets(service: ServiceDep) -> list[DatasetView]:
    """List the data sets."""
    views: list[DatasetView] = []
    for name in service.catalog.datasets():
        dataset = service.catalog.open_dataset(name)
        views.append(DatasetView(name=name, images=len(dataset), classes=dataset.classes, sha256=dataset.sha256))
    return views
