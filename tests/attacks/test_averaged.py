"""Means over passes of a randomised model: seeded for each call, equal for all images of a call, exact where they are known."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks.averaged
from attacks import Averaged, Draws, agreeing, mean_prediction, passes
from attacks.averaged import mean_losses
from attacks.gradient import look
from attacks.methods.pgd import Goal


class Shaken(nn.Module):
    """Two logits from the sums of an image's halves, to which all three kinds of global generators add noise."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1).unflatten(1, (2, -1)).square().sum(2)
        noise = torch.randn(len(images), 2) + torch.from_numpy(np.random.rand(len(images), 2)).float()
        return logits * (1 + noise) + random.random()


IMAGES = torch.linspace(0.1, 0.9, 48).view(2, 3, 2, 4)
GOAL = Goal(torch.tensor([0, 1]), towards=False)


def averaged(count: int = 5, *, image: int = 3, afresh: bool = True) -> Averaged:
    return Averaged(Shaken(), Draws.of(0, [image]), count, afresh=afresh)


def test_a_call_is_the_mean_over_its_passes() -> None:
    seed = int(Draws.of(0, [3]).stream(0).integers(attacks.averaged.SEEDS, attacks.averaged.SEEDS_AT_ONCE)[0, 0])
    with attacks.averaged.seeded(seed):
        leaf = IMAGES[:1].clone().requires_grad_()
        logits = Shaken()(leaf.expand(5, -1, -1, -1))
        losses = Goal(torch.zeros(5, dtype=torch.int64), towards=False)(logits)
        (gradient,) = torch.autograd.grad(losses.mean(), leaf)
    seen = look(averaged(), IMAGES[:1], Goal(GOAL.classes[:1], towards=False))
    assert torch.allclose(seen.logits, logits.mean(0, keepdim=True))
    assert torch.allclose(seen.losses, losses.mean(0, keepdim=True))
    assert torch.allclose(seen.gradient, gradient)
    assert torch.allclose(averaged()(IMAGES[:1]), seen.logits)
    assert torch.allclose(mean_losses(averaged(), IMAGES[:1], Goal(GOAL.classes[:1], towards=False)), seen.losses)


def test_images_of_a_call_meet_the_same_numbers_and_calls_meet_others() -> None:
    model = averaged()
    twice = IMAGES[:1].repeat(2, 1, 1, 1)
    first, second = model(twice), model(twice)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    fixed = averaged(afresh=False)
    assert torch.equal(fixed(twice), fixed(twice))


def test_the_image_decides_the_numbers_and_the_global_generators_stay() -> None:
    first = averaged()(IMAGES)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert torch.equal(averaged()(IMAGES), first)
    assert not torch.equal(averaged(image=4)(IMAGES), first)
    drawn = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    averaged()(IMAGES)
    assert (torch.rand(1), np.random.rand(), random.random()) == drawn


@pytest.mark.parametrize("at_once", [1, 3])
def test_parts_change_nothing_but_their_numbers(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """The size of a part depends on that of an image alone; means over parts are means over all passes."""
    monkeypatch.setattr(attacks.averaged, "PASS_PIXELS", at_once * 8)
    calls: list[int] = []

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return images.flatten(1)[:, :2]

    seen = look(Averaged(Counted(), Draws.of(0, [0]), 5), IMAGES[:1], Goal(GOAL.classes[:1], towards=False))
    assert sum(calls) == 5
    assert max(calls) == at_once
    assert torch.allclose(seen.logits, IMAGES[:1].flatten(1)[:, :2])


def test_passes_are_counted_and_summarised() -> None:
    logits = passes(Shaken(), IMAGES[:1], Draws.of(0, [1]), 4)
    assert logits.shape == (4, 2)
    assert torch.equal(logits, passes(Shaken(), IMAGES[:1], Draws.of(0, [1]), 4))
    known = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [torch.nan, 0.0]])
    assert agreeing(known, torch.tensor(0)) == 2
    assert torch.allclose(mean_prediction(known[:3]).exp(), known[:3].softmax(1).mean(0))
    assert mean_prediction(torch.tensor([[500.0, -500.0]])).isfinite().all()
