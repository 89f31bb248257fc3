"""The pages of reference are those that the code makes."""

from pathlib import Path

import pytest

from docs.reference import PAGES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_reference_is_made_from_the_code(name: str) -> None:
    assert (DOCS / f"{name}.md").read_text() == PAGES[name](), "run: python -m docs.reference"
