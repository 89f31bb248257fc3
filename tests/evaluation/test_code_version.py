"""Stored results belong to the code that decides them, and to no other."""

import ast
from pathlib import Path

from evaluation.plan import UNDECIDING, deciding_sources

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found


def test_what_decides_results_needs_nothing_of_what_does_not() -> None:
    left_out = {f"{package}.{name}" for package, names in UNDECIDING.items() for name in names}
    for path in deciding_sources():
        if path.name != "__init__.py":
            assert not imported(path) & left_out, path


def test_every_module_left_out_is_there() -> None:
    for package, names in UNDECIDING.items():
        assert names <= {path.stem for path in (ROOT / package).glob("*.py")}


def test_pictures_and_checks_decide_and_reports_do_not() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in deciding_sources()}
    assert {"common/pictures.py", "evaluation/counterchecks.py", "models/dat.py", "models/ops/tiles.py"} <= names
    assert not names & {
        "evaluation/writers.py",
        "evaluation/charts.py",
        "evaluation/report.py",
        "evaluation/counting.py",
    }
