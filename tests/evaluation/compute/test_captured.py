"""Models of the zoo with their passes captured: padding changes no image's logits and gradient."""

import logging
from collections.abc import Callable

import pytest
import torch

import models
from attacks import Captured, Draws, Norm, ThreatModel, classify, create, run_attack
from attacks.gradient import Passes, look
from attacks.methods.pgd import Goal
from common.float32 import float32_as
from evaluation import Catalog

ZOO = sorted(Catalog().checkpoints())


def again(run: Callable[[], Passes]) -> Callable[[], Passes]:
    return run


@float32_as("ieee")
def compare(captured: Captured, plain: torch.nn.Module, device: str) -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.arange(6, device=device)
    for count in (6, 5, 3, 2, 5):
        goal = Goal(labels[:count], towards=False)
        found, expected = look(captured, images[:count], goal), look(plain, images[:count], goal)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("name", ZOO)
def test_padding_changes_no_image(name: str) -> None:
    plain = models.fold(Catalog().load_model(name))
    compare(Captured(plain, again, batch=6), plain, "cpu")


def test_on_a_cpu_nothing_is_captured(catalog: Catalog) -> None:
    roles = catalog.load_folded("tiny", "cpu", "float32")
    assert roles.searched is roles.classifier
    assert isinstance(catalog.load_folded("tiny", "cpu", "bfloat16").searched, models.Classifier)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU")
@pytest.mark.parametrize("name", ZOO)
def test_what_an_evaluation_searches_on_a_gpu_is_a_captured_copy(name: str) -> None:
    roles = Catalog().load_folded(name, "cuda", "float32")
    assert isinstance(roles.searched, Captured)
    assert roles.searched.model is not roles.classifier
    compare(roles.searched, roles.searched.model, "cuda")


@pytest.mark.parametrize(
    "name", ["resnet_mini.fashion_mnist", "dat_mini.fashion_mnist", "aa_resnet_mini.fashion_mnist"]
)
def test_a_copy_that_pytorch_traces_gives_the_gradients_of_the_model(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = models.fold(Catalog().load_model(name))
    traced = Captured(
        plain, again, batch=6, compiler=lambda model: torch.compile(model, backend="eager", dynamic=False)
    )
    with caplog.at_level(logging.INFO):
        compare(traced, plain, "cpu")
    assert "gradients differ by" in caplog.text
    assert float(caplog.text.split("gradients differ by ")[1].split(",")[0]) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
@pytest.mark.parametrize("name", ZOO)
def test_a_gpu_judges_as_a_cpu_does(name: str) -> None:
    catalog = Catalog()
    dataset = catalog.open_dataset("fashion_mnist_test")
    indices = dataset.select(min(1000, len(dataset)), 0)
    cpu, gpu = (models.fold(catalog.load_model(name, device)) for device in ("cpu", "cuda"))
    images = torch.stack([cpu.card.preprocessing(dataset.picture(index)) for index in indices])
    with float32_as("ieee"):
        ours, theirs = classify(gpu, images.cuda()).cpu(), classify(cpu, images)
    assert (ours - theirs).abs().max() <= 1e-5 * (theirs.max() - theirs.min())
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    threat, labels = ThreatModel(Norm.LINF, 8 / 255), theirs.argmax(1)
    attack = create("pgd", steps=3, random_start=False)
    draws = Draws.of(0, indices)
    here = run_attack(attack, cpu, images, labels, threat=threat, draws=draws)
    there = run_attack(attack, gpu, images.cuda(), labels.cuda(), threat=threat, draws=draws)
    assert (here.flipped != there.flipped.cpu()).float().mean() <= 0.005, "signs of gradients near 0 may differ"
