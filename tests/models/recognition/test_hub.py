"""Models of timm, and what the hub's files beside a checkpoint tell, with the real timm."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg

import models
from models import CheckpointError, Preprocessing
from tests.models.formula import formula_images

VIT = "vit_tiny_patch16_224"
SQUASHED, FRAMED = "coat_lite_medium_384.in1k", "deepseek_vit_412m.deepseek_v4_1_flash"
HALF = [0.5] * 3
AS_VIT = Preprocessing(resize=248, crop=224, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def put(folder: Path, *, name: str = VIT, classes: int = 3, **config: object) -> Path:
    """Write a checkpoint as timm does for the hub; without `config` it stands alone."""
    path = folder / "model.safetensors"
    save_file(timm.create_model(name, num_classes=classes).state_dict(), path)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return path


def of_hub(**changed: object) -> dict[str, Any]:
    settings = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "mean": HALF, "std": HALF}
    config = {"architecture": VIT, "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": settings}
    return config | changed


@pytest.mark.parametrize(
    "name", [VIT, "resnet50", "convnext_tiny", "vit_base_patch16_clip_224.openai", SQUASHED, FRAMED]
)
def test_likely_preprocessing_is_that_of_timms_own_weights(name: str, tmp_path: Path) -> None:
    picture = formula_picture()
    settings = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    expected = create_transform(**settings)(picture)
    found = models.likely_preprocessing(f"timm:{name}", {})
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (found.mean, found.std))
    torch.testing.assert_close((found(picture) - mean) / std, expected)


def formula_picture() -> Image.Image:
    pixels = (formula_images([1, 3, 288, 384])[0].sigmoid() * 255).byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def test_every_model_of_timm_has_a_likely_preprocessing() -> None:
    for name in timm.list_models():
        assert models.likely_preprocessing(f"timm:{name}", {}).crop >= 32, name


def test_a_model_of_timm_is_added_by_name_with_its_own_preprocessing(tmp_path: Path) -> None:
    added = models.add(put(tmp_path), tmp_path / "store", "v", {"architecture": f"timm:{VIT}"}, accept_likely=True)
    assert added.card.preprocessing == AS_VIT
    assert {each.field for each in added.assumed} > {"preprocessing.mean", "classes"}


def test_a_config_of_the_hub_answers_every_question(tmp_path: Path) -> None:
    path = put(tmp_path, **of_hub(pretrained_cfg=of_hub()["pretrained_cfg"] | {"mean": [0.25] * 3, "crop_pct": 1.0}))
    added = models.add(path, tmp_path / "store", "v")
    assert (added.card.architecture, added.card.classes, added.assumed) == (f"timm:{VIT}", ("a", "b", "c"), ())
    changed = {"mean": (0.25,) * 3, "resize": 224}
    assert added.card.preprocessing == AS_VIT.model_copy(update=changed)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_the_hub_is_added(file: str, tmp_path: Path) -> None:
    path = put(tmp_path, **of_hub())
    if file.endswith(".bin"):
        torch.save(load_file(path), tmp_path / file)
        path.unlink()
    added = models.add(tmp_path, tmp_path / "store", "v")
    assert (added.card.architecture, added.assumed) == (f"timm:{VIT}", ())
    assert added.checkpoint.path.name == f"v{Path(file).suffix}"


def test_a_folder_without_a_config_or_weights_is_refused(tmp_path: Path) -> None:
    for files in ((), ("config.json",), ("model.safetensors",)):
        folder = tmp_path / "-".join(("x", *files))
        folder.mkdir()
        for file in files:
            (folder / file).touch()
        with pytest.raises(CheckpointError, match=r"needs config\.json and model\.safetensors or pytorch_model\.bin"):
            models.draft(folder)


def test_what_is_given_goes_before_what_the_config_tells(tmp_path: Path) -> None:
    given = {"classes": ["x", "y", "z"], "preprocessing": {"mean": [0.0] * 3}}
    card = models.draft(put(tmp_path, **of_hub()), given).card
    assert (card.classes, card.preprocessing.mean, card.preprocessing.std) == (("x", "y", "z"), (0.0,) * 3, (0.5,) * 3)


def test_names_of_another_number_of_classes_are_asked_for(tmp_path: Path) -> None:
    draft = models.draft(put(tmp_path, classes=2, **of_hub()))
    assert [each.field for each in draft.questions] == ["classes"]


def test_transformers_names_of_classes_are_read(tmp_path: Path) -> None:
    path = put(tmp_path, id2label={"1": "dog", "0": "cat", "2": "cow"}, model_type="vit")
    draft = models.draft(path, {"architecture": f"timm:{VIT}"})
    assert draft.card.classes == ("cat", "dog", "cow")
    assert "classes" not in {each.field for each in draft.questions}
    assert "preprocessing.mean" in {each.field for each in draft.questions}


def test_a_config_that_names_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit timm:vit_small_patch16_224"):
        models.draft(put(tmp_path, **of_hub(architecture="vit_small_patch16_224")))


@pytest.mark.parametrize("changed", [{"mean": [123.0] * 3}, {"crop_pct": 0}, {"input_size": 3}, {"std": None}], ids=str)
def test_a_config_with_impossible_settings_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    path = put(tmp_path, **of_hub(pretrained_cfg=of_hub()["pretrained_cfg"] | changed))
    with pytest.raises(CheckpointError, match=r"config\.json: pretrained_cfg does not say how to prepare pictures"):
        models.draft(path)


@pytest.mark.parametrize("text", ["", "[]", '{"lr": 3}', '{"id2label": {"3": "x"}}', '{"architecture": "x"}'])
def test_a_config_of_another_program_is_ignored(text: str, tmp_path: Path) -> None:
    path = put(tmp_path)
    (tmp_path / "config.json").write_text(text)
    given = {"architecture": f"timm:{VIT}"}
    assert models.draft(path, given).card.classes == ("class_0", "class_1", "class_2")
