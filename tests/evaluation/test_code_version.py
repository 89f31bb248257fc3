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
    for path in deciding_sources():
        if path.name != "__init__.py":
            needed = {
                name for name in imported(path) for left_out in UNDECIDING if f"{name}.".startswith(f"{left_out}.")
            }
            assert not needed, path


def test_everything_left_out_is_there() -> None:
    for name in UNDECIDING:
        path = ROOT.joinpath(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_pictures_and_checks_decide_and_reports_do_not() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in deciding_sources()}
    deciding = {
        "common/containers/jpeg.py",
        "common/pictures.py",
        "evaluation/compute/counterchecks.py",
        "models/families/dat/network.py",
        "models/ops/tiles.py",
    }
    assert deciding <= names
    assert not [name for name in names if name.startswith(("evaluation/reports/", "evaluation/results/"))]
    assert not names & {"evaluation/local.py", "models/recognition/hub.py"}
