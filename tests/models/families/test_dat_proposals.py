"""What the tensors of a DAT tell of its options."""

from typing import Any

import pytest

from tests.models.proposed import require_asked, require_told

TOLD: list[tuple[str, dict[str, Any]]] = [
    ("dat_mini", {"position": "fixed"}),
    ("dat_mini", {"position": "depthwise"}),
    ("dat_mini", {"position": "none", "image_size": 64}),
    ("dat_mini", {"offset_range": 0.0}),
    ("dat_mini", {"blocks": ["LS", "LS", "DD"]}),
    ("dat_tiny", {"image_size": 384, "window": 12}),
    ("dat_tiny", {"blocks": ["LD", "LD", "LDLDLD", "LD"], "groups": [3, 3, 3, 6]}),
]


@pytest.mark.parametrize(("name", "options"), TOLD, ids=str)
def test_options_are_read_off_the_shapes(name: str, options: dict[str, Any]) -> None:
    require_told(name, options)


UNTOLD: list[tuple[str, dict[str, Any], str]] = [
    ("dat_mini", {"offset_range": 1.0}, "offset_range"),
    ("dat_mini", {"offset_range": 0.0}, ""),
    ("dat_mini", {"blocks": ["LL", "LL", "LL"]}, "image_size"),
]


@pytest.mark.parametrize(("name", "options", "untold"), UNTOLD, ids=str)
def test_what_leaves_no_trace_is_asked_and_the_likely_answer_fits(name: str, options: dict, untold: str) -> None:
    require_asked(name, options, untold)
