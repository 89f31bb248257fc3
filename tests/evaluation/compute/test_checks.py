"""Every check is tripped by what it is there to find, and by nothing on a sound model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attacks.methods.apgd
from attacks import Norm, ThreatModel
from evaluation import AdversarialCondition, AttackChoice, Catalog, CleanCondition, EvaluationSpec, evaluate
from evaluation.compute.checks import Check, extreme, grade, probe
from evaluation.compute.preflight import PreflightError, preflight
from evaluation.reports.report import ModelReport
from tests.attacks import digits as known

COUNT = 256


class Around(nn.Module):
    """A model with something before and after it."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(self.before(images)))


@pytest.fixture(scope="module")
def digits() -> known.Digits:
    everything = known.load()
    return known.Digits(everything.images[:COUNT], everything.labels[:COUNT])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return known.small_network(known.load())


def standardised(images: Tensor) -> Tensor:
    return (images - 0.3) / 0.05


def through(images: Tensor) -> Tensor:
    """Seventeen grey levels, with the gradient of the identity: what hides a small step."""
    return images + (torch.round(images * 16) / 16 - images).detach()


def failed(model: nn.Module, digits: known.Digits) -> dict[str, Check]:
    found = preflight(model.eval(), digits.images, digits.labels, range(1000, 1000 + COUNT))
    return {check.name: check for check in found if check.failed}


@pytest.mark.parametrize("scale", [0.01, 1000])
def test_a_sound_model_passes_at_every_scale_of_its_logits(
    network: nn.Module, digits: known.Digits, scale: float
) -> None:
    scaled = Around(network, after=lambda logits: logits * scale).eval()
    assert failed(scaled, digits) == {}
    assert not extreme(scaled, digits.images, digits.labels, range(COUNT)).failed


def test_a_sound_model_passes_every_check(network: nn.Module, digits: known.Digits) -> None:
    assert failed(network, digits) == {}
    assert not extreme(network, digits.images, digits.labels, range(COUNT)).failed


@pytest.mark.parametrize(
    ("name", "means", "around"),
    [
        ("outputs are logits", "suspicious", {"after": lambda logits: logits.softmax(1)}),
        ("gradients are not zero", "suspicious", {"before": lambda images: torch.round(images * 15) / 15}),
        ("the model has a gradient", "suspicious", {"before": lambda images: images.detach()}),
        ("the model has a gradient", "suspicious", {"after": lambda logits: F.one_hot(logits.argmax(1), 10).float()}),
        ("small changes reach the logits", "suspicious", {"before": through}),
        ("the loss follows its gradient", "suspicious", {"before": through}),
        ("two passes agree", "suspicious", {"before": lambda images: images + 0.05 * torch.randn_like(images)}),
        ("an image alone gives the same", "suspicious", {"before": lambda images: images - images.mean(0)}),
    ],
)
def test_a_breakage_trips_its_check(
    network: nn.Module, digits: known.Digits, name: str, means: str, around: dict[str, Callable[[Tensor], Tensor]]
) -> None:
    found = failed(Around(network, **around), digits)
    assert found[name].means == means
    assert all(index >= 1000 for index in found[name].images)
    assert grade(found.values(), complete=True) in {"suspicious", "invalid"}


def test_normalising_left_outside_is_found(digits: known.Digits) -> None:
    everything = known.load()
    network = known.small_network(known.Digits(standardised(everything.images), everything.labels))
    assert failed(Around(network, standardised), digits) == {}
    found = failed(network, digits)["normalisation is inside"]
    assert found.means == "invalid"
    assert "preprocessing.mean" in found.message


def test_what_cannot_be_evaluated_is_refused(network: nn.Module, digits: known.Digits) -> None:
    with pytest.raises(PreflightError, match=r"call model\.eval\(\)"):
        preflight(Around(copy.deepcopy(network)).train(), digits.images, digits.labels, range(COUNT))
    with pytest.raises(PreflightError, match=r"got 0 to 16: leave normalising"):
        preflight(network, digits.images * 16, digits.labels, range(COUNT))
    with pytest.raises(PreflightError, match=r"got \(256, 9\)"):
        preflight(
            Around(network, after=lambda logits: logits[:, :9]).eval(), digits.images, digits.labels, range(COUNT)
        )


def test_hidden_gradients_are_found_by_the_extreme_radius(network: nn.Module, digits: known.Digits) -> None:
    flat = Around(network, before=lambda images: images.detach() + 0 * images).eval()
    found = extreme(flat, digits.images[:64], digits.labels[:64], range(64))
    assert found.failed
    assert found.means == "invalid"
    assert len(found.images) > 10


def test_standing_images_are_probed_with_noise_and_one_step(network: nn.Module, digits: known.Digits) -> None:
    threat = ThreatModel(Norm.LINF, 0.25)
    standing = network(digits.images).argmax(1) == digits.labels  # as if an attack had found nothing
    found = probe(network, digits.images, digits.labels, range(COUNT), threat, standing)
    assert [check.failed for check in found] == [True, True]
    assert [check.name for check in found] == ["noise flips no image that stands", "a single step is not stronger"]
    assert found[1].means == "invalid"
    assert probe(network, digits.images, digits.labels, range(COUNT), threat, ~standing & False) == ()


def evaluated(catalog: Catalog) -> ModelReport:
    attack = AttackChoice(name="apgd", parameters={"steps": 10})
    condition = AdversarialCondition(threat=ThreatModel(Norm.LINF, 0.3), attacks=(attack,))
    spec = EvaluationSpec(models=("tiny",), dataset="shapes", conditions=(CleanCondition(), condition))
    return evaluate(spec, catalog=catalog, device="cpu").models[0]


def test_a_sound_evaluation_is_reliable(catalog: Catalog) -> None:
    report = evaluated(catalog)
    assert report.failed == ()
    assert report.grade == "reliable"


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (lambda images: (images + 0.4).clamp(0, 1), "adversarial images lie in the budget", "invalid"),
        (lambda images: images + 0.3, "adversarial images lie in the budget", "invalid"),
        (lambda images: images * torch.nan, "adversarial images lie in the budget", "invalid"),
        (lambda images: images, "a single step is not stronger", "invalid"),
    ],
    ids=["leaves the ball", "leaves the range", "returns NaN", "hands back its input"],
)
def test_a_broken_attack_is_found_and_its_images_are_listed(
    monkeypatch: pytest.MonkeyPatch,
    catalog: Catalog,
    change: Callable[[Tensor], Tensor],
    name: str,
    expected: str,
) -> None:
    def broken(_self: object, task: attacks.Task) -> attacks.Proposal:
        return attacks.Proposal(change(task.images), torch.zeros_like(task.labels))

    monkeypatch.setattr(attacks.methods.apgd.APGD, "perturb", broken)
    report = evaluated(catalog)
    found = next(check for check in report.failed if check.name == name)
    assert found.images
    assert found.about == report.conditions[1].title
    assert report.grade == expected
    clean, robust = report.conditions[1].clean_accuracy, report.conditions[1].robust_accuracy
    assert clean is not None
    assert robust is not None
    assert robust.count < clean.count - 7  # what the counterchecks found counts
