"""Predictors on one core, and the deployments they predict for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import models
from evaluation import Catalog
from service.metrics import Metrics
from service.serving.deployments import Deployment, Deployments
from service.serving.limits import Limits
from service.serving.loading import load_served
from service.serving.predictor import Load, Predictor
from service.serving.shared_counts import SharedCounts
from tests.server import DEADLINE_S
from tests.service.serving.predictions import Start


@pytest.fixture
def find(catalog: Catalog, tmp_path: Path) -> Callable[[str], Deployment]:
    return Deployments(catalog, tmp_path / "serving").find


@pytest.fixture
def new(catalog: Catalog) -> Iterator[Start]:
    """Make predictors on one core that are not started yet, with room for four."""
    made: list[Predictor] = []

    def new(*, device: str = "cpu", threads: int = 1, load: Load | None = None, **limits: Any) -> Predictor:
        def load_here(deployment: Deployment, _device: str) -> models.Classifier:
            return load_served(catalog, deployment, "cpu")

        bounds = Limits(**{"images": 4, "timeout_s": DEADLINE_S} | limits)
        made.append(Predictor(device, load or load_here, bounds, Metrics(), SharedCounts(), threads=threads))
        return made[-1]

    yield new
    for predictor in made:
        predictor.stop()
