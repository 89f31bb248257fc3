"""The harness's verdicts on attacks that are broken on purpose."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import AttackError, AttackRun, Draws, Norm, Proposal, Task, ThreatModel, run_attack
from common.float32 import Float32, float32_as, float32_meaning
from tests.attacks.digits import Digits, draws

LINF = ThreatModel(Norm.LINF, 0.1)


@dataclass(frozen=True)
class Broken:
    """Proposes what `change` makes of the images."""

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    targetable: ClassVar[bool] = False
    title: ClassVar[str] = "broken"

    change: Callable[[Tensor], Tensor]

    def perturb(self, task: Task) -> Proposal:
        return Proposal(self.change(task.images))


class Brightness(nn.Module):
    """Class 1 where the mean is above a half, else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        excess = images.flatten(1).mean(1) - 0.5
        return torch.stack([-excess, excess], 1)


def verdict(change: Callable[[Tensor], Tensor], value: float = 0.45, *, threat: ThreatModel = LINF) -> AttackRun:
    """Run a broken attack on two images of one value, the second one labelled wrongly."""
    images = torch.full((2, 1, 3, 3), value)
    label = int(value > 0.5)
    labels = torch.tensor([label, 1 - label])
    run = run_attack(Broken(change), Brightness().eval(), images, labels, threat=threat, draws=draws(images))
    assert torch.equal(run.clean_logits, Brightness()(torch.full((2, 1, 3, 3), value)))
    return run


def test_a_success_within_the_budget_counts_once_and_only_if_it_was_right() -> None:
    run = verdict(lambda x: x + 0.1)
    assert run.flipped.tolist() == [True, False]
    assert run.within_budget.tolist() == [True, True]
    assert run.distances.tolist() == pytest.approx([0.1, 0.1])
    assert run.logits.argmax(1).tolist() == [1, 1]
    assert run.images_forwarded == 4


def test_what_is_known_of_the_clean_images_is_not_looked_at_again() -> None:
    images, labels, model = torch.full((2, 1, 3, 3), 0.45), torch.tensor([0, 0]), Brightness().eval()
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    run = run_attack(
        Broken(lambda images: images + 0.08),
        model,
        images,
        labels,
        threat=LINF,
        draws=draws(images),
        clean_logits=known,
    )
    assert run.images_forwarded == 2
    assert run.clean_logits is known
    assert run.flipped.tolist() == [True, False], "the second was wrong before, as far as is known"


@pytest.mark.parametrize(("beyond", "flipped"), [(5e-7, True), (5e-6, False), (0.1, False)])
def test_a_success_outside_the_ball_does_not_count(beyond: float, flipped: bool) -> None:
    run = verdict(lambda x: x + 0.1 + beyond)
    assert run.within_budget.tolist() == [flipped, flipped]
    assert run.flipped.tolist() == [flipped, False]
    assert run.distances.tolist() == pytest.approx([0.1 + beyond] * 2, abs=1e-7)
    assert torch.equal(run.adversarial, torch.full((2, 1, 3, 3), 0.45) + 0.1 + beyond)  # nothing is repaired


def test_what_another_thread_does_with_the_model_does_not_count() -> None:
    model = Brightness().eval()
    images = torch.full((2, 1, 3, 3), 0.45)

    def change(images: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as other:
            other.submit(model, images).result()
        return images

    labels = torch.tensor([0, 0])
    assert run_attack(Broken(change), model, images, labels, threat=LINF, draws=draws(images)).images_forwarded == 4


def test_one_pixel_outside_the_ball_is_enough() -> None:
    def change(images: Tensor) -> Tensor:
        moved = images + 0.1
        moved[:, :, 2, 1] += 0.01
        return moved

    assert verdict(change).within_budget.tolist() == [False, False]


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_a_success_outside_the_range_does_not_count(value: float) -> None:
    def change(images: Tensor) -> Tensor:
        moved = images + (0.1 if value > 0.5 else -0.1)
        moved[:, :, 0, 0] = value
        return moved

    start = 0.45 if value > 0.5 else 0.55
    run = verdict(change, start, threat=ThreatModel(Norm.LINF, 1))
    assert (run.logits.argmax(1) != run.clean_logits.argmax(1)).all()
    assert run.within_budget.tolist() == [False, False]
    assert run.flipped.tolist() == [False, False]


def test_not_a_number_is_no_success() -> None:
    def change(images: Tensor) -> Tensor:
        moved = images + 0.1
        moved[0, 0, 1, 1] = torch.nan
        return moved

    run = verdict(change)
    assert run.distances.isnan().tolist() == [True, False]
    assert run.within_budget.tolist() == [False, True]
    assert run.flipped.tolist() == [False, False]


def test_returning_the_input_flips_nothing() -> None:
    run = verdict(lambda x: x)
    assert run.distances.tolist() == [0, 0]
    assert run.within_budget.all()
    assert not run.flipped.any()


def test_changing_the_input_in_place_hides_no_distance() -> None:
    images = torch.full((1, 1, 3, 3), 0.45)
    labels = torch.zeros(1, dtype=torch.int64)
    attack = Broken(lambda x: x.add_(0.4))
    run = run_attack(attack, Brightness().eval(), images, labels, threat=LINF, draws=draws(images))
    assert run.distances.tolist() == pytest.approx([0.4])
    assert not run.flipped.any()
    assert torch.equal(images, torch.full((1, 1, 3, 3), 0.45))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda x: x[:1], r"broken returned torch.float32 \(1, 1, 3, 3\) for images torch.float32 \(2, 1, 3, 3\)"),
        (lambda x: x.flatten(1), r"\(2, 9\)"),
        (lambda x: x.double(), "torch.float64"),
    ],
)
def test_another_shape_or_type_is_an_error(change: Callable[[Tensor], Tensor], facts: str) -> None:
    with pytest.raises(AttackError, match=facts):
        verdict(change)


def test_the_model_is_left_without_hooks_after_an_error() -> None:
    model = Brightness().eval()
    images, labels = torch.full((1, 1, 3, 3), 0.45), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(AttackError):
        run_attack(Broken(lambda x: x[:0]), model, images, labels, threat=LINF, draws=draws(images))
    assert not model._forward_pre_hooks


def refused(match: str, **changed: object) -> None:
    asked: dict = {
        "attack": Broken(lambda x: x),
        "model": Brightness().eval(),
        "images": torch.full((2, 1, 3, 3), 0.45),
        "labels": torch.zeros(2, dtype=torch.int64),
        "threat": LINF,
        "draws": Draws.of(0, range(2)),
    }
    with pytest.raises(AttackError, match=match):
        run_attack(**(asked | changed))


def test_a_model_in_training_mode_is_refused() -> None:
    refused(r"training mode: call model.eval\(\)", model=Brightness().train())


def test_a_part_of_the_model_in_training_mode_is_refused() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), Brightness()).eval()
    model[0].train()
    refused("training mode", model=model)


def test_a_norm_that_the_attack_does_not_know_is_refused() -> None:
    refused(r"broken does not support L2 \(supported: Linf\)", threat=ThreatModel(Norm.L2, 0.1))


def test_targets_for_an_attack_without_targets_are_refused() -> None:
    refused("broken has no targeted form", targets=torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("value", [-0.001, 1.001, torch.nan, torch.inf])
def test_images_out_of_range_are_refused(value: float) -> None:
    images = torch.full((2, 1, 3, 3), 0.45)
    images[1, 0, 2, 2] = value
    refused(r"images must lie in \[0, 1\], got values from", images=images)


@pytest.mark.parametrize("shape", [(0, 1, 3, 3), (1, 3, 3), (9,)])
def test_images_of_another_layout_are_refused(shape: tuple[int, ...]) -> None:
    refused(r"images must be \(N, C, H, W\) with N at least 1", images=torch.zeros(shape))


@pytest.mark.parametrize(
    "labels", [torch.zeros(1).long(), torch.zeros(2, 1).long(), torch.zeros(2), torch.zeros(2, dtype=torch.int32)]
)
def test_labels_of_another_layout_are_refused(labels: Tensor) -> None:
    refused(r"labels must be int64 \(2,\), got", labels=labels)


def test_targets_of_another_layout_are_refused() -> None:
    refused(r"targets must be int64 \(2,\)", attack=attacks.create("pgd"), targets=torch.ones(1).long())


@pytest.mark.parametrize("count", [1, 3])
def test_draws_of_other_images_are_refused(count: int) -> None:
    refused(f"draws must belong to 2 images, got draws of {count}", draws=Draws.of(0, range(count)))


@dataclass(frozen=True)
class Creeping:
    """Brightens each image by hundredths until the task's model calls it class 1."""

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    targetable: ClassVar[bool] = True
    title: ClassVar[str] = "creeping"

    def perturb(self, task: Task) -> Proposal:
        images, steps = task.images.clone(), torch.zeros_like(task.labels)
        for _ in range(20):
            below = task.model(images).argmax(1) == 0
            images[below] += 0.01
            steps += below
        return Proposal(images, steps)


class Credulous(Brightness):
    """A bad copy of `Brightness`: class 1 from a mean of 0.45."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.05)


@pytest.mark.parametrize("targeted", [False, True])
def test_an_image_that_fools_the_copy_alone_is_attacked_again_on_the_model(targeted: bool) -> None:
    """The second image fools the model at once, where the copy sees it; the first is attacked again."""
    images = torch.tensor([0.405, 0.47]).view(2, 1, 1, 1).repeat(1, 1, 3, 3)
    model, copy, labels = Brightness().eval(), Credulous().eval(), torch.tensor([0, 0])
    targets = torch.tensor([1, 1]) if targeted else None
    run = run_attack(
        Creeping(), model, images, labels, threat=LINF, draws=draws(images), targets=targets, searched=copy
    )
    assert run.flipped.tolist() == [True, True]
    assert run.steps is not None
    assert run.steps.tolist() == [10, 4]
    assert run.distances.tolist() == pytest.approx([0.1, 0.04], abs=1e-5)
    assert torch.equal(run.logits, model(run.adversarial))


def test_reached_counts_only_within_the_budget(nearest_mean: nn.Module, digits: Digits) -> None:
    """A target that the model predicts anyway is reached; not so if the image lies outside the ball."""

    @dataclass(frozen=True)
    class Aimed(Broken):
        targetable: ClassVar[bool] = True

    images, labels = digits.images[:3], digits.labels[:3]
    targets = nearest_mean(images).argmax(1)
    for change, reached in [(lambda x: x, True), (lambda x: (x - 0.2).abs(), False)]:
        run = run_attack(Aimed(change), nearest_mean, images, labels, threat=LINF, draws=draws(images), targets=targets)
        assert run.reached is not None
        assert run.reached.tolist() == [reached] * 3


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, seen: set[str]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.seen = seen
        seen.add(f"forward {float32_meaning()}")
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.seen.add(f"backward {float32_meaning()}")
        return gradient, None


class Watched(nn.Module):
    """Notes what float32 means in its passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, set[str]()

    def forward(self, images: Tensor) -> Tensor:
        watched: Tensor = _Watched.apply(images, self.seen)  # pyright: ignore[reportAssignmentType]
        return self.inner(watched)


@pytest.mark.parametrize("around", ["ieee", "tf32"])
@pytest.mark.parametrize("name", ["pgd", "torchattacks:FGSM"])
def test_the_verdict_is_exact_whatever_float32_means_in_the_search(
    network: nn.Module, digits: Digits, around: Float32, name: str
) -> None:
    images, labels = digits.images[:40], digits.labels[:40]
    attack = attacks.create(name, **({"steps": 2} if name == "pgd" else {}))
    judge, searched = Watched(network).eval(), Watched(network).eval()
    with float32_as(around):
        run_attack(
            attack, judge, images, labels, threat=LINF, draws=draws(images), searched=searched, searched_as="tf32"
        )
        assert float32_meaning() == around
    assert judge.seen == {"forward ieee"}
    assert searched.seen == {"forward tf32", "backward tf32"}
    with float32_as(around):
        run_attack(attack, judge, images, labels, threat=LINF, draws=draws(images))
    assert judge.seen == {"forward ieee", "backward ieee"}
