"""Classes of a data set are found among a model's by a stated rule, or refused."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import Catalog, EvaluationSpec, ImageFolder, evaluate, make_plan, open_dataset
from evaluation.data.classes import ClassMatchError, imagenet_ids, match_classes
from tests.conftest import CLASSES, Put, picture_bytes, shape_picture


def folders(path: Path, names: list[str] | tuple[str, ...]) -> ImageFolder:
    """A data set of one black picture for each class."""
    with zipfile.ZipFile(path / "d.zip", "w") as archive:
        for name in names:
            archive.writestr(f"{name}/1.png", b"")
    return open_dataset(path / "d.zip")


@pytest.mark.parametrize(
    ("names", "classes", "rule", "expected"),
    [
        (["cat", "dog"], ["dog", "cat"], "name", {"cat": 1, "dog": 0}),
        (["Cat", "Dog"], ["cat", "dog"], "folded name", {"Cat": 0, "Dog": 1}),
        (["T-shirt_top", "ankle boot"], ["Ankle boot", "T-shirt/top"], "folded name", {"T-shirt_top": 1, "ankle boot": 0}),
        (["0", "1", "10", "2"], [f"kind {i}" for i in range(11)], "index", {"0": 0, "1": 1, "10": 10, "2": 2}),
        (["000", "001"], ["cat", "dog"], "index", {"000": 0, "001": 1}),
        (["2", "1"], ["1", "2"], "name", {"2": 1, "1": 0}),
        (["dog"], ["cat", "dog", "eel"], "name", {"dog": 1}),
        (["n02102040", "n01440764"], [f"class_{i}" for i in range(1000)], "WordNet id", {"n01440764": 0, "n02102040": 217}),
    ],
)  # fmt: skip
def test_classes_are_found_by_the_first_rule_that_finds_all(
    tmp_path: Path, names: list[str], classes: list[str], rule: str, expected: dict[str, int]
) -> None:
    dataset = folders(tmp_path, names)
    found = match_classes(classes, dataset, "m")
    assert found.rule == rule
    assert dict(zip(dataset.classes, found.logits, strict=True)) == expected


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["apple", "pear"], ["cat", "dog"]),  # as many, but others
        (["cat", "dog"], ["cat", "eel"]),
        (["cat", "dog", "eel"], ["cat", "dog"]),
        (["crane", "heron"], ["crane", "crane", "heron"]),  # which crane?
        (["1", "2"], ["cat", "dog"]),  # counted from one
        (["0", "1"], ["3", "4", "5"]),  # the model's own names are numbers
        (["00", "0"], ["cat", "dog"]),  # the same number twice
        (["Cat", "cat"], ["cat", "dog"]),
        (["n01440764", "n02102040"], ["cat", "dog"]),
    ],
)
def test_what_no_rule_finds_is_refused_with_both_lists(tmp_path: Path, names: list[str], classes: list[str]) -> None:
    with pytest.raises(ClassMatchError, match="Give a class map") as caught:
        match_classes(classes, folders(tmp_path, names), "m")
    assert all(name in str(caught.value) for name in [*names, *classes])


def test_long_lists_are_cut(tmp_path: Path) -> None:
    with pytest.raises(ClassMatchError, match="and 992 more"):
        match_classes([f"kind {i}" for i in range(1000)], folders(tmp_path, ["apple"]), "m")


def test_a_class_map_names_classes_or_their_indices(tmp_path: Path) -> None:
    dataset = folders(tmp_path, ["tabby", "poodle", "beagle"])
    found = match_classes(["cat", "dog"], dataset, "m", {"tabby": "cat", "poodle": 1, "beagle": "dog"})
    assert (found.rule, found.logits, found.columns) == ("class map", (1, 1, 0), (0, 1))


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"tabby": "cat"}, "no entry for 'poodle'; it has tabby"),
        ({"tabby": "cat", "poodle": "wolf"}, "'poodle' is given 'wolf', of which the model has none; it has cat, dog"),
        ({"tabby": "cat", "poodle": 2}, "'poodle' is given logit 2; the model has 0 to 1"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(
    tmp_path: Path, class_map: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ClassMatchError, match=message):
        match_classes(["cat", "dog"], folders(tmp_path, ["tabby", "poodle"]), "m", class_map)


def test_a_class_map_lies_beside_its_data_set(tmp_path: Path) -> None:
    dataset = folders(tmp_path, ["tabby", "poodle"])
    beside = tmp_path / "d.classes.json"
    beside.write_text(json.dumps({"tabby": "cat", "poodle": 1}))
    assert match_classes(["cat", "dog"], dataset, "m").logits == (1, 0)
    assert match_classes(["cat", "dog"], dataset, "m", {"tabby": 1, "poodle": 0}).logits == (0, 1)
    beside.write_text('{"tabby": true}')
    with pytest.raises(ClassMatchError, match=r"class map .*d.classes.json is not usable: .*expected such as"):
        match_classes(["cat", "dog"], dataset, "m")


def test_imagenet_has_a_thousand_ids_in_order() -> None:
    assert len(imagenet_ids()) == 1000
    assert list(imagenet_ids()) == sorted(set(imagenet_ids()))
    assert imagenet_ids()[281] == "n02123045"  # tabby, logit 281 in everybody's list


@pytest.fixture
def subset(tmp_path: Path, put_checkpoint: Put) -> Catalog:
    """A model of three classes, and a data set of two of them under other spellings."""
    put_checkpoint(tmp_path, "tiny")
    generator = np.random.default_rng(5)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for index in range(20):
            label = 1 + index % 2
            archive.writestr(f"{CLASSES[label].upper()}/{index}.png", picture_bytes(shape_picture(label, generator)))
    return Catalog((tmp_path,), (tmp_path,))


def spec(**changes: object) -> EvaluationSpec:
    attack = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.3}, "attacks": [{"name": "pgd"}]}
    facts = {"models": ["tiny"], "dataset": "two", "conditions": [{"kind": "clean"}, attack], **changes}
    return EvaluationSpec.model_validate(facts)


def test_a_data_set_may_have_fewer_classes_than_the_model(subset: Catalog) -> None:
    predictions: dict[str, set[int | None]] = {}
    for logits in ("all", "dataset"):
        asked = spec(logits=logits)
        report = evaluate(
            asked,
            catalog=subset,
            device="cpu",
            on_shard=lambda result, *_, key=logits: predictions.setdefault(key, set()).update(
                row.prediction for row in result.rows
            ),
        )
        assert report.models[0].conditions[0].accuracy is not None
        assert report.models[0].conditions[0].accuracy.value > 0.8
        said = " ".join(report.facts())
        assert "classes of tiny were matched by folded name" in said
        chance = "not masked, so chance is 1 in 3 (33 %)" if logits == "all" else "masked, so chance is 1 in 2 (50 %)"
        assert f"two has 2 of the 3 classes of tiny; logits of the others are {chance}" in said
    assert 0 in predictions["all"]  # under attack, the class that the data set does not have
    assert predictions["dataset"] == {1, 2}  # indices of the model's own logits


def test_the_classes_are_part_of_the_question(subset: Catalog) -> None:
    plain, masked = (make_plan(spec(logits=each), subset) for each in ("all", "dataset"))
    mapped = make_plan(spec(class_map={"SQUARE": 2, "STRIPES": 1}), subset)
    same = make_plan(spec(class_map={"SQUARE": 1, "STRIPES": "stripes"}), subset)
    addresses = {each.address(each.shards[0]) for each in (plain, masked, mapped)}
    assert len(addresses) == 3
    assert same.address(same.shards[0]) == plain.address(plain.shards[0])  # the same logits, however they were found


def test_a_restricted_classifier_gives_some_of_its_logits(subset: Catalog) -> None:
    loaded = subset.load_model("tiny")
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(loaded.restricted((2, 1))(images), loaded(images)[:, [2, 1]])
