"""State dicts of torchvision and timm, found by a table of what their tensors are, and what such tensors do not tell."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision

import models
from models import CheckpointError, QuestionsError
from models.__main__ import table
from models.recognition.fingerprints import TABLE, architectures, of_model, write_table

SAMPLE = ("torchvision:densenet121", "torchvision:inception_v3", "torchvision:regnet_y_400mf", "timm:convnext_atto",
          "timm:resnet50", "timm:resnetblur50", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050")  # fmt: skip
CLASSES = 5


def rows(text: str) -> set[tuple[str, str, str]]:
    """Heads, digest and model of every entry."""
    found: set[tuple[str, str, str]] = set()
    heads = ""
    for line in text.splitlines():
        if line.startswith("heads: "):
            heads = line
        else:
            digest, *names = line.split()
            found |= {(heads, digest, name) for name in names}
    return found


def test_the_table_is_what_the_command_writes() -> None:
    assert rows(table(SAMPLE)) == {row for row in rows(TABLE.read_text()) if row[2] in SAMPLE}, (
        "python -m models fingerprints > models/recognition/fingerprints.txt"
    )


def test_the_table_has_nearly_all_models_and_no_others() -> None:
    known, written = set(architectures()), [row[2] for row in rows(TABLE.read_text())]
    assert len(written) == len(set(written)) >= 0.97 * len(known)
    assert set(written) <= known
    assert TABLE.stat().st_size < 150_000


@pytest.mark.parametrize(
    "name",
    ["densenet121", "convnext_tiny", "vit_b_16", "swin_t", "efficientnet_b0", "mobilenet_v3_small", "regnet_y_400mf"],
)
def test_models_of_torchvision_are_recognised(name: str) -> None:
    with torch.device("meta"):
        tensors = models.create(f"torchvision:{name}", num_classes=CLASSES).state_dict()
    wrapped = {f"model.{key}": value for key, value in tensors.items()}
    for form in (tensors, wrapped):
        found = models.recognise(form)
        assert (found.architecture, found.num_classes) == (f"torchvision:{name}", CLASSES)


@pytest.mark.parametrize(
    "name", ["convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_models_of_timm_are_recognised(name: str) -> None:
    with torch.device("meta"):
        tensors = timm.create_model(name, num_classes=CLASSES).state_dict()
    found = models.recognise(tensors)
    asked = next((each.allowed for each in found.questions if each.field == "architecture"), found.architecture)
    assert f"timm:{name}" in asked.split(" or ")
    assert found.num_classes == CLASSES


def test_a_changed_function_that_leaves_no_trace_is_asked_about(tmp_path: Path) -> None:
    blurred = timm.create_model("resnetblur50", num_classes=CLASSES).eval()
    torch.save(blurred.state_dict(), tmp_path / "a.pth")
    with pytest.raises(QuestionsError) as caught:
        models.add(tmp_path / "a.pth", tmp_path / "store", "a")
    question = caught.value.draft.questions[0]
    assert (question.field, question.likely) == ("architecture", "resnet50")
    assert question.allowed == "resnet50 or timm:resnetaa50 or timm:resnetblur50"
    for text in ("timm:resnetaa50", "max-pooling", "dilated", "clean_accuracy"):
        assert text in question.why
    given = {"architecture": "timm:resnetblur50"}
    added = models.add(tmp_path / "a.pth", tmp_path / "store", "a", given, accept_likely=True)
    assert "architecture" not in {each.field for each in added.assumed}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(models.load(added.checkpoint.path).network(images), blurred(images))
    assert models.draft(tmp_path / "a.pth", {"architecture": "resnet50"}).questions[0].field != "architecture"
    likely = models.add(tmp_path / "a.pth", tmp_path / "store", "b", accept_likely=True)
    assert (likely.card.architecture, likely.assumed[0].field) == ("resnet50", "architecture")


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_one_name_in_two_libraries_is_one_function(name: str) -> None:
    ours, theirs = getattr(torchvision.models, name)(num_classes=CLASSES), timm.create_model(name, num_classes=CLASSES)
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), ours.eval()(images))


def test_without_timm_its_models_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        tensors = timm.create_model("convnext_atto", num_classes=CLASSES).state_dict()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"those of timm:convnext_atto.*uv pip install '\.\[hub\]'"):
        models.recognise(tensors)


def test_a_model_without_a_classifier_has_no_fingerprint() -> None:
    shapes = {"conv.weight": (8, 3, 1, 1)}
    with pytest.raises(ValueError, match="toy has no tensor whose first dimension is the number of classes"):
        of_model(lambda name, classes: shapes, "toy")
    with pytest.raises(ValueError, match="toy has no tensor whose first dimension"):
        of_model(lambda name, classes: {"fc.weight": (8, classes)}, "toy")


def test_what_cannot_be_built_is_left_out_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    def layout(name: str, classes: int) -> dict[str, tuple[int, ...]]:
        if name == "broken":
            raise RuntimeError("no network")
        return {"body.weight": (4, 3), "fc.weight": (classes, 4)}

    heads, entry = write_table(layout, ["one", "broken", "two"]).splitlines()
    assert (heads, entry.split()[1:]) == ("heads: fc.weight", ["one", "two"])
    assert capsys.readouterr().err == "broken is left out: RuntimeError('no network')\n"
