"""Architectures told from the names and shapes of their tensors."""

from collections.abc import Mapping
from itertools import chain

import pytest
import torch

import models
from models import UnrecognisedError
from tests.models.proposed import CLASSES, shapes_of


@pytest.mark.parametrize("name", models.names())
def test_every_architecture_is_told_from_its_own_tensors(name: str) -> None:
    found = models.recognise(shapes_of(name))
    assert (found.architecture, found.options, found.num_classes) == (name, {}, CLASSES)
    others = [each.allowed.split(" or ")[1:] for each in found.questions if each.field == "architecture"]
    assert not set(chain.from_iterable(others)) & set(models.names()), "no other family has these tensors"


def test_a_stranger_is_told_the_nearest_and_what_differs() -> None:
    tensors = shapes_of("resnet34")
    tensors["layer1.0.conv1.weight"] = torch.empty(64, 64, 5, 5, device="meta")
    tensors["neck.weight"] = tensors.pop("layer4.0.conv1.weight")
    with pytest.raises(UnrecognisedError) as caught:
        models.recognise(tensors)
    found = caught.value.nearest
    assert (found.architecture, found.missing, found.unexpected) == (
        "resnet34",
        ("layer4.0.conv1.weight",),
        ("neck.weight",),
    )
    assert found.shapes == ("layer1.0.conv1.weight: file (64, 64, 5, 5), architecture (64, 64, 3, 3)",)
    assert 0.95 < found.share < 1
    assert "neck.weight" in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": (3,)},
        {"conv_in.weight": (4, 3, 1, 1)},
        {"patch_proj.0.weight": (0, 3, 4, 4)},
        {"layer1.0.conv1.qkv.weight": (3, 3, 1, 1)},
        {"layer999999999.0.conv1.weight": (1,), "fc.weight": (2, 2), "conv1.weight": ()},
        {"stages.999999999.0.conv1.weight": (8, 8, 3, 3), "stem.0.weight": (8, 3, 3, 3), "fc.weight": (9, 8)},
        {"attention.weight": (), "classifier.1.weight": ()},
    ],
    ids=str,
)
def test_odd_tensors_are_unrecognised_and_cost_nothing(tensors: Mapping[str, tuple[int, ...]]) -> None:
    with pytest.raises(UnrecognisedError):
        models.recognise({name: torch.empty(shape, device="meta") for name, shape in tensors.items()})
