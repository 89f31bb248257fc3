"""The pages about evaluations agree with the code."""

from pathlib import Path

from evaluation.__main__ import page
from service.http.formats import SUFFIXES, ReportFormat

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_of_attacks_is_made_from_the_registries() -> None:
    assert (DOCS / "attacks.md").read_text() == page(), "run: python -m evaluation > docs/attacks.md"


def test_every_format_and_ending_is_named() -> None:
    text = (DOCS / "evaluation.md").read_text()
    for name in (*ReportFormat, *SUFFIXES):
        assert f"`{name}`" in text, name
