"""What the tensors of a SAN tell of its options."""

from typing import Any

import pytest

from tests.models.proposed import require_asked, require_told

TOLD: list[tuple[str, dict[str, Any]]] = [
    ("san_mini_pairwise", {"relation": "concatenation", "position": "none", "mapping_layers": 3}),
    ("san_mini_pairwise", {"relation": "dot", "position": "absolute", "mapping_layers": 1}),
    ("san_mini_pairwise", {"position": "none", "transforms": "tied", "share": 4}),
    ("san_mini_pairwise", {"transforms": "all_tied", "r2": 8}),
    ("san10_pairwise", {"widths": [64, 128, 256, 512, 1024]}),
    ("san10_patchwise", {"footprints": [3, 5, 5, 9, 11]}),
    ("san_mini_patchwise", {"relation": "star", "blocks": [1, 1, 1]}),
    ("san_mini_patchwise", {"relation": "clique", "footprints": [3, 3, 5]}),
    ("san_mini_patchwise", {"transforms": "tied", "mapping_layers": 3, "r1": 8}),
    ("san19_patchwise", {"transforms": "all_tied", "mapping_layers": 1}),
]


@pytest.mark.parametrize(("name", "options"), TOLD, ids=str)
def test_options_are_read_off_the_shapes(name: str, options: dict[str, Any]) -> None:
    require_told(name, options)


UNTOLD: list[tuple[str, dict[str, Any], str]] = [
    ("san_mini_pairwise", {"relation": "summation"}, "relation footprints"),
    ("san_mini_pairwise", {"relation": "hadamard"}, "relation footprints"),
    ("san_mini_pairwise", {"relation": "dot"}, "footprints"),
    ("san_mini_patchwise", {}, ""),
]


@pytest.mark.parametrize(("name", "options", "untold"), UNTOLD, ids=str)
def test_what_leaves_no_trace_is_asked_and_the_likely_answer_fits(name: str, options: dict, untold: str) -> None:
    require_asked(name, options, untold)
