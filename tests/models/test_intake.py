"""Checkpoints that are added: asked about, tried, written with their cards, or refused."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from common import file_sha256
from models import CheckpointError, NameTakenError, QuestionsError, UnrecognisedError
from tests.models.formula import formula_images, formula_weights, golden
from tests.models.proposed import CLASSES

PICTURES = {"resize": 256, "crop": 224, "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}


AUTHORS = {
    "san10_pairwise": lambda tensors: {"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 100},
    "dat_tiny": lambda tensors: {"model": tensors, "epoch": 300, "args": argparse.Namespace(lr=5e-4, name="dat")},
}


@pytest.mark.parametrize("name", AUTHORS)
def test_a_checkpoint_in_its_authors_layout_is_added_and_gives_the_golden_logits(name: str, tmp_path: Path) -> None:
    file = golden(f"{name}_224")
    weights = formula_weights(file["state_dict"], file["derived_keys"])
    full = models.create(name).state_dict() | weights
    torch.save(AUTHORS[name](full), tmp_path / "published.pth")
    given = {"preprocessing": PICTURES}
    added = models.add(tmp_path / "published.pth", tmp_path / "store", "mine", given, accept_likely=True)
    assert (added.card.architecture, added.card.options, len(added.card.classes)) == (name, {}, 1000)
    assert added.parameters == file["num_params"]
    assert added.facts == ({"epoch": 100} if "san" in name else {"epoch": 300, "args.lr": 5e-4, "args.name": "dat"})
    assert {each.field.partition(".")[0] for each in added.assumed} == {"options", "classes"}
    assert {each.likely for each in added.assumed if each.field == "classes"} == {
        "class_0 to class_999 in ImageNet's order"
    }
    classifier = models.load("mine", folders=[tmp_path / "store"])
    with torch.inference_mode():
        logits = classifier(formula_images(file["input"]["shape"]))
    torch.testing.assert_close(logits, torch.tensor(file["logits"]), atol=1e-4, rtol=0)


def saved(path: Path, name: str = "resnet_mini", **options: object) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(models.create(name, num_classes=CLASSES, **options).state_dict(), path)
    return path


NAMES = [f"c{index}" for index in range(CLASSES)]


def test_questions_are_answered_by_the_draft_card(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", "san_mini_pairwise")
    store = tmp_path / "store"
    with pytest.raises(QuestionsError) as caught:
        models.add(path, store, "a", {"classes": NAMES})
    draft = caught.value.draft
    assert not store.exists()
    fields = [each.field for each in draft.questions]
    assert fields[:2] == ["options.footprints", "options.relation"]
    assert "classes" not in fields
    completed = json.loads(draft.card.model_dump_json())
    assert completed["options"] == {"footprints": [3, 5, 5], "relation": "subtraction"}
    added = models.add(path, store, "a", completed)
    assert (added.assumed, added.card.options, added.card.classes) == ((), {}, tuple(NAMES))
    assert added.card.sha256 == file_sha256(path)
    assert json.loads((store / "a.json").read_text()) == json.loads(added.card.model_dump_json())
    assert sorted(each.name for each in store.iterdir()) == ["a.json", "a.pth"]


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "model.net.module."])
def test_a_prefix_of_all_names_is_no_part_of_the_architecture(prefix: str, tmp_path: Path) -> None:
    tensors = {f"{prefix}{key}": value for key, value in torch.load(saved(tmp_path / "a.pth")).items()}
    torch.save({"state_dict": tensors}, tmp_path / "a.ckpt")
    for given in ({}, {"architecture": "resnet_mini"}):
        assert models.draft(tmp_path / "a.ckpt", given).card.architecture == "resnet_mini"
    torch.save({**tensors, f"{prefix}neck.weight": torch.zeros(1)}, tmp_path / "b.ckpt")
    with pytest.raises(UnrecognisedError) as caught:
        models.draft(tmp_path / "b.ckpt")
    assert caught.value.nearest.unexpected == ("neck.weight",)


def test_two_kinds_of_weights_are_asked_about(tmp_path: Path) -> None:
    plain = torch.load(saved(tmp_path / "a.pth"))
    average = {key: value / 2 for key, value in plain.items()}
    torch.save({"model": plain, "model_ema": average}, tmp_path / "a.pth")
    with pytest.raises(QuestionsError) as caught:
        models.add(tmp_path / "a.pth", tmp_path / "store", "a")
    question = caught.value.draft.questions[0]
    assert (question.field, question.likely) == ("weights", "ema")
    for given, expected in (({}, average), ({"weights": "ema"}, average), ({"weights": "plain"}, plain)):
        name = given.get("weights", "likely")
        added = models.add(tmp_path / "a.pth", tmp_path / "store", name, given, accept_likely=True)
        assert added.card.weights == given.get("weights", "ema")
        assert ("weights" in {each.field for each in added.assumed}) == (not given)
        assert torch.equal(models.load(added.checkpoint.path).network.fc.weight, expected["fc.weight"])
    with pytest.raises(CheckpointError, match="weights: the file has plain and ema weights, got 'best'"):
        models.draft(tmp_path / "a.pth", {"weights": "best"})


def test_an_unusual_answer_is_kept_and_used(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", "san_mini_pairwise")
    given = {"options": {"relation": "summation"}, "preprocessing": {"crop": 48}}
    added = models.add(path, tmp_path / "store", "a", given, accept_likely=True)
    assert added.card.options == {"relation": "summation"}
    assert (added.card.preprocessing.crop, added.card.preprocessing.resize, added.input_shape) == (48, 48, (3, 48, 48))
    assert models.load(added.checkpoint.path).network.layer0[0].sam.relation_name == "summation"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"architecture": "torchvision:squeezenet1_0"},
            "the number of classes is unknown: no tensor of the file matches",
        ),
        ({"architecture": "dat_mini", "options": {"blocks": 3}}, "architecture 'dat_mini' with options {'blocks': 3}"),
        ({"classes": ["a", "b"]}, r"classes: 2 names given, a\.pth has 7 classes"),
        ({"architecture": "resnet18"}, "does not fit resnet18, which shares"),
        ({"architecture": "resnet_mimi"}, "Did you mean 'resnet_mini'"),
        ({"architecture": "torchvision:resnet1"}, "Did you mean 'resnet1"),
        ({"options": 3}, "options: expected names and values, got 3"),
        ({"options": {"depth": 3}}, "resnet_mini has no option depth"),
        ({"options": {"blocks": 1}}, "unexpected keys"),
        ({"preprocessing": {"crop": 0}}, "preprocessing.crop"),
        ({"preprocessing": {"crop": "wide"}}, "preprocessing.crop"),
        ({"colour": "red"}, "colour"),
        ({"sha256": "0" * 64}, "its card says 0000"),
    ],
    ids=str,
)
def test_wrong_answers_are_refused_and_nothing_is_kept(tmp_path: Path, given: dict[str, Any], match: str) -> None:
    path = saved(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=match):
        models.add(path, tmp_path / "store", "a", given, accept_likely=True)
    assert list((tmp_path / "store").glob("*")) == []


def test_an_image_size_that_cannot_work_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", "dat_mini")
    with pytest.raises(CheckpointError, match=r"cannot classify images of \(1, 3, 40, 40\)"):
        models.add(path, tmp_path / "store", "a", {"preprocessing": {"crop": 40}}, accept_likely=True)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    tensors = torch.load(saved(tmp_path / "a.pth"))
    tensors["fc.bias"][0] = torch.nan
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not finite"):
        models.add(tmp_path / "a.pth", tmp_path / "store", "a", accept_likely=True)


def test_a_taken_name_keeps_its_files(tmp_path: Path) -> None:
    path, store = saved(tmp_path / "a.pth"), tmp_path / "store"
    models.add(path, store, "a", accept_likely=True)
    other = saved(tmp_path / "b.pt", "san_mini_patchwise")
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    for file in (path, other):
        with pytest.raises(NameTakenError):
            models.add(file, store, "a", accept_likely=True)
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


def test_a_file_that_lies_in_the_store_already_only_gets_its_card(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth")
    added = models.add(path, tmp_path, "a", accept_likely=True)
    assert added.checkpoint.path.samefile(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "a.pth"]


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of the oldest supported torch
def test_tensors_that_are_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    for tensor in (
        torch.zeros(1).expand(2**10),
        torch.zeros(1).expand(2**30, 2**9),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
    ):
        torch.save({"fc.weight": tensor}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"a\.pth"):
            models.read_state_dict(tmp_path / "a.pth")


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.pth")
    monkeypatch.setattr("models.state_dicts.MAX_CHECKPOINT_BYTES", path.stat().st_size)
    models.read_state_dict(path)
    monkeypatch.setattr("models.state_dicts.MAX_CHECKPOINT_BYTES", path.stat().st_size - 2000)
    with pytest.raises(CheckpointError, match="are allowed"):
        models.read_state_dict(path)


def test_only_numbers_and_short_texts_are_facts(tmp_path: Path) -> None:
    tensors = torch.load(saved(tmp_path / "a.pth"))
    beside = {
        "epoch": 3,
        "best_acc1": torch.tensor(74.5),
        "arch": "x" * 999,
        "optimizer": {"lr": 1},
        "loss": float("nan"),
    }
    torch.save({"state_dict": tensors, **beside, "args": {"lr": 0.5, "deep": {"a": 1}}}, tmp_path / "a.pth")
    found = models.draft(tmp_path / "a.pth")
    assert found.facts == {"epoch": 3, "best_acc1": 74.5, "arch": "x" * 200, "args.lr": 0.5}
