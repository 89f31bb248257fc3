"""The site of the documents: no link or anchor leads nowhere, and nothing comes from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make it as `make docs` does; a link or an anchor that leads nowhere, or a page without a place in the menu, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder


def test_it_has_every_page_and_the_files_they_link(site: Path) -> None:
    pages = ["index.html", *(f"docs/{page.stem}.html" for page in ROOT.glob("docs/*.md"))]
    assert [page for page in pages if not (site / page).is_file()] == []
    assert (site / "docs/images/report.png").is_file()
    assert (site / "examples/defended_number.ipynb").is_file()


def test_a_link_to_what_is_not_in_the_site_is_text(site: Path) -> None:
    assert "(docs/python.md), [notebooks](examples)" in (ROOT / "README.md").read_text()
    assert "</a>, notebooks." in (site / "index.html").read_text()


def test_it_loads_nothing_from_other_hosts(site: Path) -> None:
    loads = re.compile(
        r"<(?!a\b)[^>]*\s(?:src|href|action)=[\"']?(?:https?:)?//[^>]*>|url\([\"']?(?:https?:)?//|@import"
    )
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 25
    assert {str(file): loads.findall(file.read_text()) for file in files if loads.search(file.read_text())} == {}
