"""Checkpoints added on the command line: questions, refusals, and models that work at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import cli.main
import models
from service.http.schemas import AddedModel, OpenQuestions
from tests.command import Run
from tests.conftest import CLASSES
from tests.server import Server
from tests.service.adding import PICTURES, left_over, other, own, tiny

__all__ = ["other", "own", "tiny"]

Add = Callable[..., tuple[int, str, str]]


@pytest.fixture
def add(run: Run) -> Add:
    """Run `withstand models add` in this process; returns status, output and errors."""

    def add(*arguments: object) -> tuple[int, str, str]:
        ended = run("models", "add", *arguments)
        return ended.status, ended.out, ended.err

    return add


def test_the_command_adds_a_model(add: Add, tiny: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"preprocessing": PICTURES}))
    more = (
        "--card",
        card,
        "--set",
        "classes=disc,square,stripes",
        "--set",
        "options.strides=[1,2,2]",
        "--data-dir",
        tmp_path,
    )
    status, out, err = add(tiny, "--name", "mine", *more)
    assert (status, err) == (0, "")
    assert out.startswith("added mine: resnet_mini {'widths': [4, 4, 8], 'blocks': 1}\n")
    assert "assumed" not in out
    assert models.load("mine", folders=[tmp_path / "models"]).card.classes == CLASSES
    status, out, err = add(tiny, "--name", "mine", "--yes", "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    assert "there is a model 'mine' already" in err


def test_a_folder_of_the_hub_is_added_under_its_name(add: Add, own: Server, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "of.hub"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(tiny.read_bytes())
    (folder / "config.json").write_text('{"id2label": {"0": "x", "1": "y", "2": "z"}}')
    status, out, err = add(folder, "--yes", "--data-dir", tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("added of.hub: resnet_mini")
    assert models.load("of.hub", folders=[tmp_path / "models"]).card.classes == ("x", "y", "z")
    status, out, _ = add(folder, "--yes", "--server", own.url)
    assert status == 0
    assert out.startswith("added of.hub: resnet_mini")
    assert own.http.get("/v1/models/of.hub").json()["classes"] == ["x", "y", "z"]
    assert left_over(own.service.settings.data_dir / "models") == []
    (folder / "config.json").unlink()
    status, _, err = add(folder, "--name", "bare", "--data-dir", tmp_path)
    assert status == 2
    assert "needs config.json" in err


def test_lists_of_numbers_are_set_with_commas(add: Add, tiny: Path, tmp_path: Path) -> None:
    answers = ("preprocessing.mean=0,0.5,1", "preprocessing.std=[1,1,1]", "options.strides=1,2,2", "training=1 a, 2 b")
    flags = [part for answer in answers for part in ("--set", answer)]
    status, _, err = add(tiny, "--name", "mine", "--yes", *flags, "--data-dir", tmp_path)
    assert (status, err) == (0, "")
    card = models.load("mine", folders=[tmp_path / "models"]).card
    assert (card.preprocessing.mean, card.preprocessing.std, card.training) == ((0, 0.5, 1), (1, 1, 1), "1 a, 2 b")


def test_the_command_prints_questions_and_ends_with_2(add: Add, other: Path, tmp_path: Path) -> None:
    status, out, err = add(other, "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    for text in ("options.footprints", "[3, 5, 5]", "preprocessing.crop", "class_0 to class_2", "--yes"):
        assert text in err
    status, out, err = add(other, "--data-dir", tmp_path, "--json")
    assert status == 2
    asked = OpenQuestions.model_validate_json(out)
    card = tmp_path / "card.json"
    card.write_text(asked.card.model_dump_json())
    status, out, _ = add(other, "--data-dir", tmp_path, "--json", "--card", card)
    assert status == 0
    assert AddedModel.model_validate_json(out).assumed == []


def test_the_command_speaks_to_a_service(add: Add, own: Server, other: Path) -> None:
    status, _, err = add(other, "--server", own.url, "--name", "sent")
    assert status == 2
    assert "options.footprints" in err
    status, out, _ = add(other, "--server", own.url, "--name", "sent", "--yes")
    assert status == 0
    assert "assumed: options.footprints = [3, 5, 5]" in out
    assert own.http.get("/v1/models/sent").status_code == 200
    status, out, err = add(other, "--server", own.url, "--name", "sent", "--yes")
    assert (status, out) == (2, "")
    assert "409: name: there is a model 'sent' already" in err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--set", "classes"], "--set needs FIELD=VALUE, got 'classes'"),
        (["--set", "classes=a,b"], "classes: 2 names given"),
        (["--set", "classes=a,b,c", "--set", "classes.x=3"], "classes has no fields"),
        (["--set", "preprocessing.crop=big"], "preprocessing.crop"),
        (["--set", "preprocessing.mean=123.675,116.28,103.53", "--yes"], "is not on the [0, 1] scale of pixels"),
        (["--name", "../x", "--yes"], "is no name of a model"),
        (["--card", "missing.json"], "missing.json"),
    ],
    ids=str,
)
def test_the_command_refuses_what_is_wrong(
    add: Add, tiny: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    status, out, err = add(tiny, *arguments, "--data-dir", tmp_path)
    assert (status, out) == (2, "")
    assert match in err
    assert "Traceback" not in err


def test_the_help_of_add_states_every_default() -> None:
    command = cli.main.load_command("models").commands["add"]
    for parameter in command.params:
        if parameter.name != "help":
            record = parameter.get_help_record(typer.Context(command))
            assert record is not None, parameter.name
            assert "[default: " in record[1] or "[required]" in record[1] or "default: " in record[1], record
