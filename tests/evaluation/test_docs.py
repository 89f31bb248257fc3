"""The pages about evaluations agree with the code."""

from pathlib import Path

from evaluation.__main__ import page
from service.http.formats import FORMATS

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_of_attacks_is_made_from_the_registries() -> None:
    assert (DOCS / "attacks.md").read_text() == page(), "run: python -m evaluation > docs/attacks.md"


def test_the_table_of_formats_is_that_of_the_registry() -> None:
    text = (DOCS / "evaluation.md").read_text()
    _, _, table = text.partition("| format | ending | what it is |\n|---|---|---|\n")
    rows = [f"| `{each.name}` | {f'`{each.suffix}`' if each.suffix else ''} | {each.description} |" for each in FORMATS]
    assert table.split("\n\n")[0] == "\n".join(rows)
