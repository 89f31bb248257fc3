"""PGD and FGSM against the reference implementation, and their forward passes."""

import pytest
import torch
import torchattacks
from torch import Tensor, nn

import attacks
from attacks import AttackRun, Draws, Norm, ThreatModel, run_attack
from tests.attacks.digits import BUDGETS, Digits, draws, small

REFERENCES = {Norm.LINF: torchattacks.PGD, Norm.L2: torchattacks.PGDL2}
both_norms = pytest.mark.parametrize("norm", list(REFERENCES))


def reference(norm: Norm, model: nn.Module, digits: Digits, *, steps: int, step_size: float) -> Tensor:
    attack = REFERENCES[norm](model, eps=BUDGETS[norm].eps, alpha=step_size, steps=steps, random_start=False)
    return attack(digits.images, digits.labels)


def ours(norm: Norm, model: nn.Module, digits: Digits, **parameters: object) -> AttackRun:
    return run_attack(
        attacks.create("pgd", random_start=False, counts="last_step", **parameters),
        model,
        digits.images,
        digits.labels,
        threat=BUDGETS[norm],
        draws=draws(digits.images),
    )


def part(digits: Digits, count: int) -> Digits:
    return Digits(digits.images[:count], digits.labels[:count])


def doubted(network: nn.Module, digits: Digits) -> Digits:
    """The images whose softmax at the label leaves at least a hundredth to the other classes."""
    certainty = network(digits.images).softmax(1).gather(1, digits.labels.unsqueeze(1)).squeeze(1)
    return Digits(digits.images[certainty < 0.99], digits.labels[certainty < 0.99])


@pytest.mark.parametrize(("norm", "batch", "bits"), [(Norm.LINF, 256, 0), (Norm.L2, 1, 3e-6)])
@pytest.mark.parametrize("share", [0.25, 1, 2], ids=lambda share: f"step={share}eps")
def test_one_step_is_the_references(
    network: nn.Module, digits: Digits, norm: Norm, batch: int, bits: float, share: float
) -> None:
    """Bit for bit in Linf; in L2 but for the last bits, where the reference sums squares in float32.

    It averages the loss over the batch, too: no matter to a sign, but it adds 1e-10 to the average's norm. Images of which the
    network is certain are left out: there the reference's cross-entropy cancels in float32.
    """
    step_size, doubtful = share * BUDGETS[norm].eps, doubted(network, digits)
    for start in range(0, min(24 * batch, 512), batch):
        some = Digits(doubtful.images[start : start + batch], doubtful.labels[start : start + batch])
        expected = reference(norm, network, some, steps=1, step_size=step_size)
        assert not torch.equal(expected, some.images)
        found = ours(norm, network, some, steps=1, step_size=step_size).adversarial
        assert (found - expected).abs().max() <= bits


@both_norms
def test_several_steps_give_the_verdicts_of_the_reference(nearest_mean: nn.Module, digits: Digits, norm: Norm) -> None:
    some, step_size = part(digits, 256), BUDGETS[norm].eps / 4
    expected = nearest_mean(reference(norm, nearest_mean, some, steps=10, step_size=step_size)).argmax(1)
    assert 20 < (expected != some.labels).sum() < 236
    assert torch.equal(ours(norm, nearest_mean, some, steps=10, step_size=step_size).logits.argmax(1), expected)


def test_fgsm_gives_the_images_of_the_reference(nearest_mean: nn.Module, digits: Digits) -> None:
    some, threat = part(digits, 256), BUDGETS[Norm.LINF]
    expected = torchattacks.FGSM(nearest_mean, eps=threat.eps)(some.images, some.labels)
    run = run_attack(
        attacks.create("fgsm"), nearest_mean, some.images, some.labels, threat=threat, draws=draws(some.images)
    )
    assert (run.adversarial - expected).abs().max() <= 1e-7  # the reference does not project, which rounds
    assert torch.equal(run.logits.argmax(1), nearest_mean(expected).argmax(1))


def test_the_last_step_counts() -> None:
    """One step of length eps must reach the ball's surface; an iterate less would be the image itself."""

    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.flatten(1).sum(1)
            return torch.stack([total, -total], 1)

    images = torch.full((1, 1, 2, 2), 0.5)
    attack = attacks.create("pgd", steps=1, step_size=0.25, random_start=False)
    threat = ThreatModel(Norm.LINF, 0.25)
    labels = torch.zeros(1, dtype=torch.int64)
    run = run_attack(attack, Sum().eval(), images, labels, threat=threat, draws=draws(images))
    assert torch.equal(run.adversarial, torch.full((1, 1, 2, 2), 0.25))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_pgd_sees_each_image_once_a_step(network: nn.Module, digits: Digits, steps: int, targeted: bool) -> None:
    some = part(digits, 9)
    run = run_attack(
        attacks.create("pgd", steps=steps, counts="last_step"),
        network,
        some.images,
        some.labels,
        threat=BUDGETS[Norm.LINF],
        draws=draws(some.images),
        targets=(some.labels + 1) % 10 if targeted else None,
    )
    assert run.images_forwarded == 9 * (steps + 2)


@pytest.mark.parametrize(("name", "passes"), [("fgsm", 1 + 2), ("noise", 2)])
def test_forward_passes_of_the_others(network: nn.Module, digits: Digits, name: str, passes: int) -> None:
    some = part(digits, 9)
    run = run_attack(
        small(name), network, some.images, some.labels, threat=BUDGETS[Norm.LINF], draws=draws(some.images)
    )
    assert run.images_forwarded == 9 * passes


def test_default_step_size_is_two_and_a_half_balls_over_the_steps(nearest_mean: nn.Module, digits: Digits) -> None:
    some = part(digits, 32)
    default = ours(Norm.LINF, nearest_mean, some, steps=5)
    stated = ours(Norm.LINF, nearest_mean, some, steps=5, step_size=2.5 * BUDGETS[Norm.LINF].eps / 5)
    other = ours(Norm.LINF, nearest_mean, some, steps=5, step_size=BUDGETS[Norm.LINF].eps / 10)
    assert torch.equal(default.adversarial, stated.adversarial)
    assert not torch.equal(default.adversarial, other.adversarial)


def plain_pgd(model: nn.Module, digits: Digits, *, steps: int, step_size: float, eps: float) -> tuple[Tensor, Tensor]:
    """The loop as in the paper: the first wrong iterate of each image, or the last one; and the passes until then."""
    images = digits.images
    current, found = images.clone(), images.clone()
    flipped, passes = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), dtype=torch.int64)
    for _ in range(steps):
        passes += ~flipped
        leaf = current.clone().requires_grad_()
        logits = model(leaf)
        wrong = logits.argmax(1) != digits.labels
        found[wrong & ~flipped] = current[wrong & ~flipped]
        flipped |= wrong
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, digits.labels, reduction="sum"), leaf)
        ahead = torch.clamp(current + step_size * gradient.sign() - images, -eps, eps)
        current = torch.clamp(images + ahead, 0, 1)
    found[~flipped] = current[~flipped]
    return found, passes


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_images_that_have_fallen_leave_the_batch(network: nn.Module, digits: Digits, steps: int) -> None:
    some, threat = part(doubted(network, digits), 300), ThreatModel(Norm.LINF, 0.1)
    expected, passes = plain_pgd(network, some, steps=steps, step_size=0.025, eps=0.1)
    attack = attacks.create("pgd", steps=steps, step_size=0.025, random_start=False)
    run = run_attack(attack, network, some.images, some.labels, threat=threat, draws=draws(some.images))
    assert torch.equal(run.logits.argmax(1) != some.labels, network(expected).argmax(1) != some.labels)
    assert (run.adversarial - expected).abs().amax(1).flatten(1).amax(1).lt(1e-6).float().mean() > 0.98
    assert run.images_forwarded == 2 * 300 + passes.sum()
    assert steps < 9 or passes.sum() < 0.9 * 300 * steps


@both_norms
def test_any_step_finds_all_that_the_last_step_finds(network: nn.Module, digits: Digits, norm: Norm) -> None:
    some = part(digits, 500)
    any_step, last_step = (
        run_attack(
            attacks.create("pgd", steps=7, step_size=1.4 * BUDGETS[norm].eps, random_start=False, counts=counts),
            network,
            some.images,
            some.labels,
            threat=BUDGETS[norm],
            draws=draws(some.images),
        ).flipped
        for counts in ("any_step", "last_step")
    )
    assert last_step.any()
    assert not (last_step & ~any_step).any()


class Bright(nn.Module):
    """Class 1 where the mean is above a half, else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        excess = images.flatten(1).mean(1) - 0.5
        return torch.stack([-excess, excess], 1)


@pytest.mark.parametrize(("counts", "steps"), [("any_step", [0, 1, 2, 3, 4, 4]), ("last_step", [4] * 6)])
def test_the_step_at_which_an_image_fell_is_known(counts: str, steps: list[int]) -> None:
    """Each step darkens by 0.02: an image 0.03 above the border has crossed it after two. The last one never falls."""
    images = torch.tensor([0.49, 0.51, 0.53, 0.55, 0.57, 0.59]).view(6, 1, 1, 1).expand(6, 1, 3, 3)
    labels = torch.ones(6, dtype=torch.int64)
    attack = attacks.create("pgd", steps=4, step_size=0.02, random_start=False, counts=counts)
    threat = ThreatModel(Norm.LINF, 0.2)
    run = run_attack(attack, Bright().eval(), images, labels, threat=threat, draws=draws(images))
    assert run.steps is not None
    assert run.steps.tolist() == steps
    assert run.flipped.tolist() == [False, True, True, True, True, False]


@both_norms
def test_the_steps_said_are_those_that_the_harness_counted(network: nn.Module, digits: Digits, norm: Norm) -> None:
    some, steps = part(digits, 300), 6
    run = run_attack(
        attacks.create("pgd", steps=steps),
        network,
        some.images,
        some.labels,
        threat=BUDGETS[norm],
        draws=Draws.of(0, range(300)),
    )
    assert run.steps is not None
    assert run.images_forwarded == 2 * 300 + (run.steps + 1).clamp(max=steps).sum()
    assert run.steps[run.flipped].unique().numel() > 3


def test_a_single_step_is_one(network: nn.Module, digits: Digits) -> None:
    some = part(digits, 9)
    for name, steps in (("fgsm", [1] * 9), ("noise", None)):
        attack = attacks.create(name)
        run = run_attack(attack, network, some.images, some.labels, threat=BUDGETS[Norm.L2], draws=draws(some.images))
        assert (None if run.steps is None else run.steps.tolist()) == steps
