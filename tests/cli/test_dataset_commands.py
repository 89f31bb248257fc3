"""`withstand datasets` lists, `withstand datasets check` tells what an evaluation would stumble over."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.command import Run
from tests.conftest import CLASSES, Put, picture_bytes


@pytest.fixture
def folder(here: list[str], shapes_zip: Path) -> Path:
    """The shapes as a folder below the current one."""
    with zipfile.ZipFile(shapes_zip) as archive:
        archive.extractall("mine")
    return Path("mine")


def test_the_list_has_counts_and_names_what_cannot_be_used(run: Run, here: list[str], shapes_zip: Path) -> None:
    Path("more").mkdir()
    Path("more/junk.zip").write_bytes(b"junk")
    where = [*here[2:], "--dataset-dir", "more"]
    ended = run("datasets", *where)
    assert (ended.status, ended.err) == (0, "")
    assert f"shapes: 33 images, 3 classes, {shapes_zip}" in ended.out
    assert "junk: cannot be used: junk.zip is not a readable zip file" in ended.out
    listed = {each["name"]: each for each in json.loads(run("datasets", "--json", *where).out)}
    assert listed["shapes"] == {"name": "shapes", "path": str(shapes_zip), "images": 33, "classes": 3}
    assert "problem" in listed["junk"]


def test_a_sound_data_set_passes(run: Run, here: list[str]) -> None:
    ended = run("datasets", "check", "shapes", "--model", "tiny", *here)
    assert (ended.status, ended.err) == (0, "")
    for said in (
        "shapes: 33 images, 3 classes",
        "disc: 11",
        "width 32 / 32 / 32, height 32 / 32 / 32 pixels",
        "0 other files ignored",
        "0 pictures cannot be used",
        "the classes match those of tiny by name",
    ):
        assert said in ended.out


def test_one_of_something_is_written_as_one(run: Run, here: list[str]) -> None:
    Path("one/class").mkdir(parents=True)
    Path("one/class/a.png").write_bytes(b"junk")
    Path("one/class/notes.txt").write_bytes(b"")
    out = run("datasets", "check", "./one", *here).out
    for said in ("one: 1 image, 1 class, SHA-256", "1 other file ignored\n", "1 picture cannot be used:\n"):
        assert said in out
    assert "one: 1 image, 1 class, " in run("datasets", "--dataset-dir", ".").out


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_that_are_not_utf8_are_written_with_their_bytes(
    run: Run, here: list[str], folder: Path, put_checkpoint: Put, kind: str
) -> None:
    odd = Path(os.fsdecode(b"odd\xfe"))
    folder.rename(odd)
    (odd / "disc" / "00.png").rename(odd / "disc" / os.fsdecode(b"\xff.png"))
    (odd / "disc" / os.fsdecode(b"bad\xff.png")).write_bytes(b"junk")
    (odd / os.fsdecode(b"\xff.txt")).write_bytes(b"")
    sets = Path("sets")
    sets.mkdir()
    Path(sets / os.fsdecode(b"\xfc.zip")).write_bytes(b"junk")
    odd.rename(sets / "odd")
    if kind == "tar":
        with tarfile.open(sets / "odd.tar", "w") as archive:
            archive.add(sets / "odd", "odd")
        shutil.rmtree(sets / "odd")
    where = [*here[:2], "--dataset-dir", str(sets)]

    listed = run("datasets", *where[2:])
    assert (listed.status, listed.err) == (0, "")
    assert "odd: 34 images, 3 classes" in listed.out
    assert r"\xfc: cannot be used: \xfc.zip is not a readable zip file" in listed.out
    assert json.loads(run("datasets", *where[2:], "--json").out)
    for json_flag in ([], ["--json"]):
        checked = run("datasets", "check", "odd", *where, *json_flag)
        assert (checked.status, checked.err) == (1, "")
    broken = json.loads(checked.out)["broken"]
    assert [each["file"].rpartition("/")[2] for each in broken] == [r"bad\xff.png"]

    refused = run("evaluate", "tiny", "--dataset", "odd", *where)
    assert r"bad\xff.png" in refused.err
    forms = ["--out", "report.html", "--out", "report.csv", "--out", "report.json"]
    done = run(
        "evaluate", "tiny", "--dataset", "odd", "--on-broken", "skip", "--preset", "demo", "--json", *forms, *where
    )
    assert (done.status, done.err) == (0, "")
    assert r"/\xff.png" in Path("report.csv").read_text()
    assert r"bad\xff.png" in json.loads(done.out)["plan"]["skipped"][0]["file"]


def test_sizes_broken_pictures_and_other_files(run: Run, here: list[str], folder: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (90, 10)).save(folder / "disc" / "tall.jpg", exif=turned)
    (folder / "disc" / "wide.png").write_bytes(picture_bytes(Image.new("L", (100, 8))))
    (folder / "square" / "bad.png").write_bytes(b"junk")
    (folder / "README.txt").write_text("hello")
    ended = run("datasets", "check", f"./{folder}", "--json", *here)
    assert (ended.status, ended.err) == (1, "")
    found = json.loads(ended.out)
    assert found["classes"] == {"disc": 13, "square": 12, "stripes": 11}
    assert (found["name"], found["images"], found["ignored"]) == ("mine", 36, 1)
    assert found["width"] == {"min": 10, "median": 32, "max": 100}
    assert found["height"] == {"min": 8, "median": 32, "max": 90}
    assert [(each["file"], each["reason"][:13]) for each in found["broken"]] == [("square/bad.png", "not a picture")]
    ended = run("datasets", "check", f"./{folder}", *here)
    assert ended.status == 1
    assert "1 picture cannot be used:\n  square/bad.png: not a picture" in ended.out


def test_classes_that_are_not_the_models_fail_until_a_class_map_tells(run: Run, here: list[str], folder: Path) -> None:
    (folder / "disc").rename(folder / "ball")
    ended = run("datasets", "check", f"./{folder}", "--model", "tiny", *here)
    assert ended.status == 1
    assert "the classes of mine are not those of tiny" in ended.out
    assert json.loads(run("datasets", "check", f"./{folder}", "--model", "tiny", "--json", *here).out)["match"][
        "problem"
    ]
    Path("map.json").write_text(json.dumps({"ball": "disc", "square": 1, "stripes": "stripes"}))
    ended = run("datasets", "check", f"./{folder}", "--model", "tiny", "--class-map", "map.json", "--json", *here)
    assert ended.status == 0
    match = json.loads(ended.out)["match"]
    assert match["rule"] == "class map"
    assert match["classes"] == dict(zip(("ball", "square", "stripes"), CLASSES, strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "unknown data set 'nothing'"),
        (["./nothing"], "there is no data set at nothing"),
        (["shapes", "--model", "tinny"], "unknown model 'tinny'. Did you mean 'tiny'?"),
        (["shapes", "--class-map", "map.json"], "--class-map map.json needs --model"),
        (["shapes", "--model", "tiny", "--class-map", "map.json"], "the class map map.json cannot be read"),
    ],
)
def test_bad_requests_end_with_2(run: Run, here: list[str], arguments: list[str], said: str) -> None:
    ended = run("datasets", "check", *arguments, *here)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
