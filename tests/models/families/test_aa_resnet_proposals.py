"""What the tensors of an AA-ResNet tell of its options."""

import re
from typing import Any

import pytest

import models
from tests.models.proposed import require_asked, require_told, shapes_of

TOLD: list[tuple[str, dict[str, Any]]] = [
    ("aa_resnet34", {"kappa": 0.5, "upsilon": 0.5}),
    ("aa_resnet50", {"kappa": 1.0, "upsilon": 1.0}),
    ("aa_resnet50", {"positions": "none"}),
    ("aa_resnet50", {"positions": "coord"}),
    ("aa_resnet50", {"image_size": 320, "heads": 4}),
    ("aa_resnet34", {"pooled": True}),
    ("aa_resnet34", {"pool_first": False}),
    ("aa_wide_resnet28_10", {"image_size": 64, "heads": 4, "kappa": 0.3}),
    ("aa_resnet_mini", {"heads": 4, "upsilon": 0.6, "pool_first": False}),
]


@pytest.mark.parametrize(("name", "options"), TOLD, ids=str)
def test_options_are_read_off_the_shapes(name: str, options: dict[str, Any]) -> None:
    require_told(name, options)


UNTOLD: list[tuple[str, dict[str, Any], str]] = [
    ("aa_resnet_mini", {"positions": "sine"}, "positions heads pooled pool_first"),
    ("aa_resnet_mini", {"positions": "coord"}, "heads pooled pool_first"),
    ("aa_resnet_mini", {"image_size": 63}, "image_size"),
]


@pytest.mark.parametrize(("name", "options", "untold"), UNTOLD, ids=str)
def test_what_leaves_no_trace_is_asked_and_the_likely_answer_fits(name: str, options: dict, untold: str) -> None:
    require_asked(name, options, untold)


def test_a_depth_that_nobody_published_is_not_taken_for_another() -> None:
    tensors = shapes_of("aa_resnet34")
    surplus = r"(layer1\.2|layer2\.[23]|layer3\.[2-5]|layer4\.2)\."
    for name in [name for name in tensors if re.match(surplus, name)]:
        del tensors[name]
    with pytest.raises(models.UnrecognisedError):
        models.recognise(tensors)
