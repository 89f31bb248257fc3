"""Networks of other makers: by name, and from files that bring their own graph."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import attacks
import models
from common import UnknownNameError
from models import CheckpointError

CLASSES = 4
CARD = {"classes": list("abcd"), "preprocessing": {"resize": 32, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}}
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # of the oldest supported torch
]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.create("resnet_mini", num_classes=CLASSES, widths=[8, 8, 16], blocks=1).eval()


def script(path: Path, net: nn.Module) -> None:
    torch.jit.save(torch.jit.script(net), path)


def trace(path: Path, net: nn.Module) -> None:
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, 3, 32, 32)), path)


def export(path: Path, net: nn.Module) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes), path)


FILES: dict[str, tuple[str, str, Callable[[Path, nn.Module], None]]] = {
    "scripted": ("torchscript", "a.pt", script),
    "traced": ("torchscript", "a.pt", trace),
    "exported": ("torch_export", "a.pt2", export),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_with_its_own_graph_is_added_and_answers_as_the_network_did(kind: str, tmp_path: Path) -> None:
    architecture, file, write = FILES[kind]
    net = network()
    write(tmp_path / file, net)
    added = models.add(
        tmp_path / file, tmp_path / "store", "mine", CARD | {"architecture": architecture}, accept_likely=True
    )
    assert (added.card.architecture, added.macs, added.checkpoint.path.suffix) == (
        architecture,
        None,
        Path(file).suffix,
    )
    assert added.parameters == sum(each.numel() for each in net.parameters())
    classifier = models.load("mine", folders=[tmp_path / "store"])
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(classifier(images), net((images - 0.5) / 0.25), atol=1e-5, rtol=1e-5)
    assert not any(each.requires_grad for each in classifier.parameters())
    assert models.verify(added.checkpoint) == added.card


@pytest.mark.parametrize("kind", FILES)
def test_gradients_reach_the_image(kind: str, tmp_path: Path) -> None:
    architecture, file, write = FILES[kind]
    net = network()
    write(tmp_path / file, net)
    added = models.add(tmp_path / file, tmp_path, "a", CARD | {"architecture": architecture}, accept_likely=True)
    classifier = models.load(added.checkpoint.path)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(images).logsumexp(1).sum(), images)
    (expected,) = torch.autograd.grad(net((images - 0.5) / 0.25).logsumexp(1).sum(), images)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
    attack = attacks.create("pgd", steps=2)
    draws = attacks.Draws.of(0, range(3))
    labels, threat = torch.tensor([0, 1, 2]), attacks.ThreatModel("Linf", 8 / 255)
    moved = attack.perturb(attacks.Task(classifier, images.detach(), labels, threat, draws)).images
    assert (moved - images).abs().amax() > 1e-3


class Training(nn.Module):
    """Its answer depends on the images beside an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) - images.mean((0, 2, 3)).unsqueeze(0)


class Chance(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(images.flatten(1)[:, :100], 0.5, training=True)


class Maps(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 2


class Pair(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.mean((2, 3)), images


def fixed(path: Path, net: nn.Module) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),)), path)


BAD: dict[str, tuple[type[nn.Module], str]] = {
    "depends on the batch": (
        Training,
        "are random or depend on the other images of its batch: save the network in evaluation mode",
    ),
    "depends on chance": (Chance, "save the network in evaluation mode"),
    "gives maps": (Maps, r"expected logits \(3, classes\) of 3 images, got torch.float32 \(3, 3, 32, 32\)"),
    "gives a pair": (Pair, "returns a tuple, expected one tensor of logits"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_graph_that_is_no_classifier_is_refused(case: str, tmp_path: Path) -> None:
    kind, match = BAD[case]
    script(tmp_path / "a.pt", kind())
    with pytest.raises(CheckpointError, match=match):
        models.add(
            tmp_path / "a.pt", tmp_path / "store", "a", CARD | {"architecture": "torchscript"}, accept_likely=True
        )


def test_a_graph_for_one_batch_size_is_refused_with_the_remedy(tmp_path: Path) -> None:
    fixed(tmp_path / "a.pt2", network())
    with pytest.raises(CheckpointError, match="in batches of any size: export it with dynamic_shapes"):
        models.draft(tmp_path / "a.pt2", CARD | {"architecture": "torch_export"})


@pytest.mark.parametrize(("architecture", "file"), [("torchscript", "a.pt"), ("torch_export", "a.pt2")])
def test_broken_files_are_refused(architecture: str, file: str, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"hello" * 100):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"not a readable {architecture} file"):
            models.draft(tmp_path / file, CARD | {"architecture": architecture})


def test_a_graph_is_never_run_unless_its_card_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "a.pt", network())
    export(tmp_path / "a.pt2", network())
    monkeypatch.setattr("models.intake.load_opaque", None)
    with pytest.raises(CheckpointError, match="to use it, give its architecture as torchscript"):
        models.draft(tmp_path / "a.pt", CARD)
    with pytest.raises(CheckpointError, match="to use it, give its architecture as torch_export"):
        models.draft(tmp_path / "a.pt2", CARD)


def test_the_number_of_classes_must_agree(tmp_path: Path) -> None:
    script(tmp_path / "a.pt", network())
    with pytest.raises(CheckpointError, match="3 names given"):
        models.draft(tmp_path / "a.pt", CARD | {"architecture": "torchscript", "classes": list("abc")})


@pytest.mark.parametrize("side", ["wide", 2.5, None])
def test_a_size_that_is_not_a_number_of_pixels_is_refused_before_the_graph_runs(side: object, tmp_path: Path) -> None:
    script(tmp_path / "a.pt", Maps())
    with pytest.raises(CheckpointError, match=f"preprocessing.crop: expected pixels, got {side!r}"):
        models.draft(tmp_path / "a.pt", {"architecture": "torchscript", "preprocessing": {"crop": side}})


def test_a_card_that_no_longer_fits_its_graph_is_refused(tmp_path: Path) -> None:
    """Card and file are changed by hand after they were added."""
    script(tmp_path / "a.pt", network())
    given = CARD | {"architecture": "torchscript"}
    checkpoint = models.add(tmp_path / "a.pt", tmp_path / "store", "a", given, accept_likely=True).checkpoint
    classes = len(checkpoint.card().classes)
    wrong = checkpoint.card().model_copy(update={"classes": ("a", "b", "c", "d", "e", "f", "g"), "sha256": None})
    checkpoint.card_path.write_text(wrong.model_dump_json())
    for use in (models.verify, lambda each: models.load(each.path)):
        with pytest.raises(CheckpointError, match=f"gives {classes} logits, its card names 7 classes"):
            use(checkpoint)
    checkpoint.path.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable torchscript file"):
        models.verify(checkpoint)


def test_such_files_are_no_architecture_that_can_be_created() -> None:
    for name in models.OPAQUE:
        assert name not in models.names()
        with pytest.raises(ValueError, match="names a kind of file"):
            models.create(name)
        with pytest.raises(UnknownNameError):
            models.spec(f"{name}:x")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "inception_v3", "vit_b_16"])
def test_models_of_torchvision_are_created_by_name(name: str) -> None:
    with torch.device("meta"):
        net = models.create(f"torchvision:{name}", num_classes=CLASSES).eval()
        side = 299 if name.startswith("inception") else 224
        assert net(torch.empty(2, 3, side, side)).shape == (2, CLASSES)
    assert models.spec(f"torchvision:{name}").name == f"torchvision:{name}"
    assert f"torchvision:{name}" not in models.names()


def test_an_unknown_model_of_torchvision_is_suggested_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown torchvision model 'densenet12'\. Did you mean 'densenet121'"):
        models.create("torchvision:densenet12")
    with pytest.raises(UnknownNameError):
        models.create("torchvision:fasterrcnn_resnet50_fpn")
    with pytest.raises(ValueError, match="has no option weights"):
        models.create("torchvision:resnet18", weights="DEFAULT")


def test_a_checkpoint_of_torchvision_is_added_with_its_preprocessing(tmp_path: Path) -> None:
    torch.save(models.create("torchvision:mobilenet_v3_small", num_classes=CLASSES).state_dict(), tmp_path / "a.pth")
    given = {"architecture": "torchvision:mobilenet_v3_small", "classes": list("abcd")}
    added = models.add(tmp_path / "a.pth", tmp_path, "a", given, accept_likely=True)
    assert (added.card.preprocessing.resize, added.card.preprocessing.crop) == (256, 224)
    assert added.macs is not None
    assert 5e7 < added.macs < 7e7
    with pytest.raises(CheckpointError, match=r"does not fit torchvision:mobilenet_v3_large"):
        models.draft(tmp_path / "a.pth", {"architecture": "torchvision:mobilenet_v3_large"})


def test_without_timm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"timm:vit needs the library timm: uv pip install '\.\[hub\]'"):
        models.create("timm:vit")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_models_of_timm_are_created_by_name(name: str) -> None:
    with torch.device("meta"):
        net = models.create(f"timm:{name}", num_classes=CLASSES).eval()
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, CLASSES)
    with pytest.raises(UnknownNameError, match=r"unknown timm model 'resnet1x'\. Did you mean 'resnet1"):
        models.create("timm:resnet1x")
