"""What the tensors of a residual network tell: of the plain ones, torchvision's and those with channel attention."""

from typing import Any

import pytest
from torch import nn

import models
from models.families.se_resnet import SEBlock
from tests.models.proposed import CLASSES, require_asked, require_told

TOLD: list[tuple[str, dict[str, Any]]] = [
    ("se_resnet50", {"reduction": 8}),
    ("se_resnet34", {"reduction": 24}),
    ("resnet_mini", {"widths": [8, 8, 16], "blocks": 1}),
    ("torchvision:wide_resnet50_2", {}),
]


@pytest.mark.parametrize(("name", "options"), TOLD, ids=str)
def test_options_are_read_off_the_shapes(name: str, options: dict[str, Any]) -> None:
    require_told(name, options)


UNTOLD: list[tuple[str, dict[str, Any], str]] = [
    ("resnet_mini", {}, "strides"),
    ("resnet38", {}, ""),
]


@pytest.mark.parametrize(("name", "options", "untold"), UNTOLD, ids=str)
def test_what_leaves_no_trace_is_asked_and_the_likely_answer_fits(name: str, options: dict, untold: str) -> None:
    require_asked(name, options, untold)


def test_a_depth_without_channel_attention_here_is_not_taken_for_another() -> None:
    network = models.create("resnet18", num_classes=CLASSES)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        blocks = network.get_submodule(name).children()
        network.add_module(name, nn.Sequential(*(SEBlock(block, 16) for block in blocks)))
    with pytest.raises(models.UnrecognisedError):
        models.recognise(network.state_dict())
