"""A model whose answers are held back until a test lets them go."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import models
from tests.server import DEADLINE_S


@pytest.fixture
def forwarded() -> Iterator[list[int]]:
    """Sizes of the batches that classifiers are given."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, models.Classifier):
            sizes.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(note)
    yield sizes
    handle.remove()


@dataclass
class Held:
    """Forward passes wait until they are released; `busy` is set once one does."""

    busy: Event = field(default_factory=Event)
    release: Event = field(default_factory=Event)


@pytest.fixture
def held() -> Iterator[Held]:
    state = Held()

    def hold(module: nn.Module, _inputs: object) -> None:
        if isinstance(module, models.Classifier):
            state.busy.set()
            state.release.wait(DEADLINE_S)

    handle = register_module_forward_pre_hook(hold)
    yield state
    handle.remove()
