"""Pages for people are true to the tree: links lead somewhere, folders, modules and contracts are those that exist."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "docker" / "README.md", ROOT / "zoo" / "README.md"])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that a heading has in a link, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []


def test_the_folders_are_those_of_the_tree() -> None:
    named = set(re.findall(r"^\| `([a-z/]+)/` \|", ARCHITECTURE, flags=re.MULTILINE))
    assert [name for name in named if not (ROOT / name).is_dir()] == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert set(packages) <= named
    inner = {
        f"{each}/{path.name}"
        for each in packages
        for path in (ROOT / each).iterdir()
        if (path / "__init__.py").exists()
    }
    assert inner <= named


def test_the_modules_and_files_it_names_exist() -> None:
    packages = "common|models|attacks|evaluation|service|cli|zoo"
    modules = re.findall(rf"`((?:{packages})(?:\.\w+)+)`", ARCHITECTURE)
    files = re.findall(rf"`((?:{packages}|docker)/[\w/.]+)`", ARCHITECTURE)
    assert len(modules) > 15 and len(files) > 15
    for module in set(modules):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_contracts_are_those_of_import_linter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    table = ARCHITECTURE.partition("| contract | so that |\n|---|---|\n")[2].partition("\n\n")[0].replace(r"\|", "/")
    rows = [line.split("|")[1].strip().replace("/", "|") for line in table.splitlines()]
    assert rows == [contract["name"] for contract in contracts]


def test_the_targets_of_make_it_names_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split("\t")[0] for line in listed.splitlines()}
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert {"demo", "test", "check"} <= named <= targets
