"""Auto-PGD against the closed form, the reference and its own definition."""

import pytest
import torch
import torchattacks
from torch import Tensor, nn

import attacks
from attacks import AttackRun, Draws, Norm, ThreatModel, run_attack
from attacks.methods.apgd import _checkpoints, _Losses
from tests.attacks.digits import BUDGETS, Digits, robust


def run(model: nn.Module, digits: Digits, eps: float, **parameters: object) -> AttackRun:
    return run_attack(
        attacks.create("apgd", **parameters),
        model,
        digits.images,
        digits.labels,
        threat=ThreatModel(Norm.LINF, eps),
        draws=Draws.of(0, range(len(digits.labels))),
    )


@pytest.mark.parametrize(("eps", "count"), [(0.01, 1599), (0.02, 1568), (0.1, 1185), (0.2, 262), (0.5, 0)])
def test_the_targeted_loss_finds_the_exact_count(
    nearest_mean: nn.Module, digits: Digits, eps: float, count: int
) -> None:
    assert robust(run(nearest_mean, digits, eps, loss="targeted_dlr"), digits.labels).sum() == count


def test_cross_entropy_lies_between_the_exact_count_and_pgd(nearest_mean: nn.Module, digits: Digits) -> None:
    assert 1185 <= robust(run(nearest_mean, digits, 0.1), digits.labels).sum() < 1250


@pytest.mark.parametrize(("loss", "theirs"), [("ce", "APGD"), ("targeted_dlr", "APGDT")])
def test_as_strong_as_the_reference(network: nn.Module, digits: Digits, loss: str, theirs: str) -> None:
    some = Digits(digits.images[:200], digits.labels[:200])
    kind = {"loss": "ce"} if theirs == "APGD" else {"n_classes": 10}
    attack = getattr(torchattacks, theirs)(network, eps=0.05, steps=20, seed=0, **kind)
    with torch.random.fork_rng():
        found = attack(some.images, some.labels)
    reference = int((network(found).argmax(1) == some.labels).sum())
    ours = int(robust(run(network, some, 0.05, steps=20, loss=loss), some.labels).sum())
    assert 10 < reference < 190
    assert ours <= reference + 2


def test_checkpoints_come_closer() -> None:
    assert list(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(_checkpoints(1)) == [1]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, 5.0, 3.0, 2.0]])
    labels = torch.tensor([0, 0])
    dlr = _Losses("dlr", labels, None)(logits)
    assert dlr.tolist() == pytest.approx([-(5 - 3) / (5 - 2), -(1 - 5) / (5 - 2)])
    targeted = _Losses("targeted_dlr", labels, torch.tensor([2, 1]))(logits)
    assert targeted.tolist() == pytest.approx([-(5 - 3) / (5 - 1.5), -(1 - 5) / (5 - 1.5)])


@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted_dlr"])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_an_image_alone_has_the_verdict_that_it_has_in_a_batch(
    network: nn.Module, digits: Digits, norm: Norm, loss: str
) -> None:
    attack = attacks.create("apgd", steps=7, loss=loss, targets_tried=3)
    indices = range(24)

    def flipped(part: range) -> list[bool]:
        images, labels = digits.images[part.start : part.stop], digits.labels[part.start : part.stop]
        draws = Draws.of(3, part)
        return run_attack(attack, network, images, labels, threat=BUDGETS[norm], draws=draws).flipped.tolist()

    together = flipped(indices)
    assert True in together
    assert together == [verdict for index in indices for verdict in flipped(range(index, index + 1))]


class FewClasses(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.3) @ self.weight


@pytest.mark.parametrize(
    ("classes", "loss", "noticed"),
    [
        (2, "dlr", True),
        (3, "dlr", False),
        (2, "targeted_dlr", True),
        (3, "targeted_dlr", True),
        (4, "targeted_dlr", False),
        (2, "ce", False),
    ],
)
def test_few_classes_fall_back_with_a_notice(digits: Digits, classes: int, loss: str, noticed: bool) -> None:
    attack = attacks.create("apgd", loss=loss, steps=10)
    assert isinstance(attack, attacks.ClassDependent)
    assert (attack.notice(classes) is not None) == noticed
    model = FewClasses(classes).eval()
    images = digits.images[:50]
    labels = model(images).argmax(1)
    threat = ThreatModel(Norm.LINF, 0.2)
    found = run_attack(attack, model, images, labels, threat=threat, draws=Draws.of(0, range(50)))
    assert found.flipped.sum() > 10


def test_one_step_is_looked_at(digits: Digits) -> None:
    """A single step of length 2 eps from the surface must end where the loss is larger, and be judged there."""
    model = FewClasses(3).eval()
    images = digits.images[:30]
    labels = model(images).argmax(1)
    threat = ThreatModel(Norm.LINF, 0.3)
    found = run_attack(
        attacks.create("apgd", steps=1), model, images, labels, threat=threat, draws=Draws.of(0, range(30))
    )
    assert found.flipped.sum() > 15
    assert found.images_forwarded <= 30 * (2 + 1 + 2)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_the_steps_said_are_those_that_the_harness_counted(network: nn.Module, digits: Digits, norm: Norm) -> None:
    images, labels = digits.images[:200], digits.labels[:200]
    draws = Draws.of(0, range(200))
    attack = attacks.create("apgd", steps=10)
    run = run_attack(attack, network, images, labels, threat=BUDGETS[norm], draws=draws)
    assert run.steps is not None
    assert run.images_forwarded == 3 * 200 + (run.steps + 1).sum()  # one pass ranks the classes, one looks at the start
    assert run.steps[run.flipped].unique().numel() > 2


def test_steps_towards_earlier_targets_are_counted(network: nn.Module, digits: Digits) -> None:
    images, labels = digits.images[:200], digits.labels[:200]
    draws = Draws.of(0, range(200))
    attack = attacks.create("apgd", steps=4, loss="targeted_dlr", targets_tried=3)
    run = run_attack(attack, network, images, labels, threat=BUDGETS[Norm.LINF], draws=draws)
    assert run.steps is not None
    right = run.clean_logits.argmax(1) == labels
    assert run.steps[right & ~run.flipped].eq(12).all()
    assert {0, 1, 2} & set(run.steps[run.flipped].tolist())
    assert run.steps[run.flipped].max() > 4
