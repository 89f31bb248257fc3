"""`--dataset` takes a path as well as a name."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.command import Run


@pytest.fixture
def folder(here: list[str], shapes_zip: Path) -> Path:
    """The shapes as a folder below the current one."""
    with zipfile.ZipFile(shapes_zip) as archive:
        archive.extractall("my/mine")
    return Path("my/mine")


def evaluated(run: Run, here: list[str], dataset: object) -> dict[str, object]:
    ended = run("evaluate", "tiny", "--dataset", dataset, "--images", 6, "--json", *here)
    assert (ended.status, ended.err) == (0, "")
    return json.loads(ended.out)["plan"]


def test_folders_and_archives_are_named_by_their_stems(run: Run, here: list[str], folder: Path) -> None:
    shutil.make_archive("zipped", "zip", folder)
    with tarfile.open("packed.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    by_path = {"mine": f"./{folder}/", "zipped": "zipped.zip", "packed": "packed.tar.gz"}
    for name, path in by_path.items():
        plan = evaluated(run, here, path)
        assert isinstance(plan["spec"], dict)
        assert (plan["spec"]["dataset"], plan["images"]) == (name, 6)


def test_a_bare_folder_below_the_current_one_needs_no_dot(run: Run, here: list[str], folder: Path) -> None:
    shutil.copytree(folder, "bare")
    assert evaluated(run, here, "bare")["classes"] == 3


def test_a_known_name_is_no_path(run: Run, here: list[str]) -> None:
    Path("shapes").mkdir()
    assert evaluated(run, here, "shapes")["classes"] == 3


def test_a_known_path_is_its_name(run: Run, here: list[str], shapes_zip: Path) -> None:
    assert evaluated(run, here, shapes_zip)["dataset_sha256"] == evaluated(run, here, "shapes")["dataset_sha256"]


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("./nothing", "there is no data set at nothing"),
        ("nothing.zip", "there is no data set at nothing.zip"),
        ("nothing", "unknown data set 'nothing'"),
        ("./a folder", "'a folder' is no name of a data set"),
        ("./my/shapes", "two data sets are named 'shapes'"),
        ("./notes.txt", "notes.txt is neither a folder nor an archive"),
    ],
)
def test_other_paths_are_refused(run: Run, here: list[str], folder: Path, dataset: str, said: str) -> None:
    folder.with_name("shapes").mkdir()
    Path("a folder").mkdir()
    Path("notes.txt").write_text("hello")
    ended = run("evaluate", "tiny", "--dataset", dataset, *here)
    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
