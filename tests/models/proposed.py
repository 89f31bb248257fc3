"""What every family's proposals must do: describe the network that the tensors are from, and ask for what they do not tell."""

from typing import Any

import torch
from torch import Tensor

import models

CLASSES = 7


def shapes_of(name: str, **options: object) -> dict[str, Tensor]:
    with torch.device("meta"):
        return models.create(name, num_classes=CLASSES, **options).state_dict()


def require_told(name: str, options: dict[str, Any]) -> None:
    found = models.recognise(shapes_of(name, **options))
    assert (found.architecture, found.options, found.num_classes) == (name, options, CLASSES)


def require_asked(name: str, options: dict[str, Any], untold: str) -> None:
    tensors = shapes_of(name, **options)
    found = models.recognise(tensors)
    assert {each.field for each in found.questions} == {f"options.{field}" for field in untold.split()}
    answers = {each.field.partition(".")[2]: each.likely for each in found.questions}
    likely = shapes_of(name, **found.options | answers)
    assert {key: value.shape for key, value in likely.items()} == {key: value.shape for key, value in tensors.items()}
    assert all(each.why and each.allowed for each in found.questions)
