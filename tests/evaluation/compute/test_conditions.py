"""What a condition does to a batch, against what a linear model's closed form says."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from attacks import Draws, Norm, ThreatModel, create, create_transform, run_attack
from evaluation import AttackChoice, Catalog, EvaluationSpec, Shard, evaluate, run_shard
from evaluation.compute.conditions import Batch, Row, run_condition
from evaluation.spec import AdversarialCondition, Condition, CurveCondition, GridCondition
from models import Classifier
from tests.attacks import digits as known
from tests.attacks.exact import EXACT, exactly_robust


@pytest.fixture(scope="module")
def digits() -> known.Digits:
    return known.load()


@pytest.fixture(scope="module")
def linear(digits: known.Digits) -> nn.Module:
    return known.nearest_mean(digits)


TARGETED = AttackChoice(name="apgd", parameters={"steps": 20, "loss": "targeted_dlr"})


def rows(condition: Condition, model: nn.Module, digits: known.Digits, searched: nn.Module | None = None) -> list[Row]:
    indices = range(len(digits.labels))
    pair = cast(Classifier, model), cast(Classifier, searched or model)
    batch = Batch(*pair, digits.images, digits.labels, indices, seed=0)
    return run_condition(condition, batch).rows(batch)


def test_a_curve_has_the_exact_counts_and_brackets_each_image(linear: nn.Module, digits: known.Digits) -> None:
    eps = tuple(each for each in EXACT if each)
    found = rows(CurveCondition(norm=Norm.LINF, eps=eps, attacks=(TARGETED,), refine=3), linear, digits)
    right = [row for row in found if row.clean_prediction == row.label]
    for radius, count in EXACT.items():
        assert sum(row.flipped_eps is None or row.flipped_eps > radius for row in right) == count
    # Where an image was flipped it is not robust, and one eighth of the interval below it was.
    radii = torch.tensor([row.flipped_eps or 1 for row in right])
    assert radii.unique().numel() > 20
    chosen = torch.tensor([row.index for row in right])
    part = known.Digits(digits.images[chosen], digits.labels[chosen])
    for radius in radii.unique().tolist():
        at = radii == radius
        below = max(each for each in (0.0, *eps) if each < radius)
        width = (min(each for each in (*eps, 1.0) if each >= radius - 1e-9) - below) / 8
        few = known.Digits(part.images[at], part.labels[at])
        assert not exactly_robust(linear, few, radius + 1e-6).any()
        if width / radius > 1e-3:
            assert exactly_robust(linear, few, max(0, radius - width - 1e-6)).float().mean() >= 0.98


def test_a_curve_never_rises_even_where_the_attack_is_weak(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:100], digits.labels[:100])
    attack = AttackChoice(name="pgd", parameters={"steps": 1})
    condition = CurveCondition(norm=Norm.LINF, eps=(0.02, 0.05, 0.1, 0.5), attacks=(attack,), refine=2)
    for row in rows(condition, network, few):
        assert (row.flipped_eps is None) == (row.flipped_by is None)
        assert row.flipped_eps is None or row.distance is None or row.distance <= row.flipped_eps + 1e-6


def test_a_grid_counts_the_worst(linear: nn.Module, digits: known.Digits) -> None:
    angles = (0.0, 90.0, 180.0, 20.0)
    found = rows(GridCondition(name="rotation", grid={"degrees": angles}), linear, digits)
    holds = torch.ones(len(digits.labels), dtype=torch.bool)
    for degrees in angles:
        turned = create_transform("rotation", degrees=degrees).apply(
            digits.images, Draws.of(0, range(len(digits.images)))
        )
        holds &= linear(turned).argmax(1) == digits.labels
    assert [row.prediction == row.label for row in found] == holds.tolist()
    assert 0 < holds.sum() < 263


def test_what_attacks_see_does_not_judge(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:60], digits.labels[:60])
    attack = AttackChoice(name="pgd", parameters={"steps": 5, "random_start": False})
    condition = AdversarialCondition.model_validate({"threat": {"norm": "Linf", "eps": 0.1}, "attacks": [attack]})

    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images).detach() + 0 * images.flatten(1)[:, :1]

    class Opposite(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return -network(images)

    plain = rows(condition, network, few)
    assert sum(row.flipped_by is not None for row in plain) > 20
    assert all(row.flipped_by is None for row in rows(condition, network, few, Blind().eval()))
    # What fools the copy alone is attacked again as the model sees it.
    again = rows(condition, network, few, Opposite().eval())
    assert [(row.flipped_by, row.flipped_step) for row in again] == [
        (row.flipped_by, row.flipped_step) for row in plain
    ]


def test_a_cascade_spares_the_fallen(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:100], digits.labels[:100])
    strong = {"name": "fgsm"}

    def forwarded(*chosen: dict[str, Any]) -> tuple[int, list[Row]]:
        condition = AdversarialCondition.model_validate(
            {"threat": {"norm": "Linf", "eps": 0.15}, "attacks": list(chosen)}
        )
        batch = Batch(cast(Classifier, network), cast(Classifier, network), few.images, few.labels, range(100), seed=0)
        outcome = run_condition(condition, batch)
        return outcome.images_forwarded, outcome.rows(batch)

    once, found = forwarded(strong)
    standing = sum(row.flipped_by is None and row.clean_prediction == row.label for row in found)
    assert 0 < standing < 50
    twice, again = forwarded(strong, {"name": "noise"})
    assert twice - once == standing  # looked at once more
    assert all(row.prediction != row.label for row in again if row.flipped_by)
    assert sum(row.flipped_by == "fgsm" for row in again) == sum(row.flipped_by == "fgsm" for row in found)


def test_rows_name_the_step_of_the_attack_that_flipped(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:100], digits.labels[:100])
    chosen = [{"name": "noise"}, {"name": "fgsm"}, {"name": "pgd", "parameters": {"steps": 7}}]
    condition = AdversarialCondition.model_validate({"threat": {"norm": "Linf", "eps": 0.12}, "attacks": chosen})
    found = rows(condition, network, few)
    steps = {
        name: {row.flipped_step for row in found if row.flipped_by == name} for name in ("noise", "fgsm", "pgd", None)
    }
    assert steps["noise"] | steps[None] == {None}  # noise flips an image or none, by the processor
    assert steps["fgsm"] == {1}
    left = torch.tensor(
        [row.clean_prediction == row.label and row.flipped_by not in ("noise", "fgsm") for row in found]
    )
    run = run_attack(
        create("pgd", steps=7),
        network,
        few.images[left],
        few.labels[left],
        threat=condition.threat,
        draws=Draws.of(0, left.nonzero().flatten().tolist()).stream(0),
    )
    assert run.steps is not None
    assert [row.flipped_step for row in found if row.flipped_by == "pgd"] == run.steps[run.flipped].tolist()
    assert run.steps[run.flipped].unique().numel() > 1
    assert not run.flipped[0]


WEAK: dict[str, Any] = {"steps": 3, "step_size": 0.02, "counts": "last_step"}


def restarted(network: nn.Module, digits: known.Digits, restarts: int, **changes: Any) -> tuple[list[Row], int]:
    """Rows, and images forwarded, of a weak attack."""
    attack = {"name": "pgd", "parameters": WEAK, "restarts": restarts}
    facts = {"threat": {"norm": "Linf", "eps": 0.15}, "attacks": [attack], **changes}
    model = cast(Classifier, network)
    batch = Batch(model, model, digits.images, digits.labels, range(len(digits.labels)), seed=0)
    outcome = run_condition(AdversarialCondition.model_validate(facts), batch)
    return outcome.rows(batch), outcome.images_forwarded


def test_restarts_meet_only_what_still_stands(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:300], digits.labels[:300])
    (once, first), (twice, second), (thrice, third) = (restarted(network, few, restarts) for restarts in (1, 2, 3))
    assert first == 300 * (1 + 3 + 1)  # the harness looks first, and after each run
    for fewer, more, cost in ((once, twice, second - first), (twice, thrice, third - second)):
        standing = [row.index for row in fewer if row.clean_prediction == row.label and row.flipped_by is None]
        assert 0 < len(standing) < 300
        assert cost == len(standing) * (3 + 1)
        assert all(more[row.index] == row for row in fewer if row.index not in standing)


def test_every_restart_has_draws_of_its_own_and_names_what_it_flipped(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:300], digits.labels[:300])
    found, _ = restarted(network, few, 6)
    assert {row.flipped_restart for row in found} == {None, 0, 1, 2, 3, 4, 5}
    standing = torch.ones(300, dtype=torch.bool)
    for restart in range(6):
        run = run_attack(
            create("pgd", **WEAK),
            network,
            few.images,
            few.labels,
            threat=ThreatModel(Norm.LINF, 0.15),
            draws=Draws.of(0, range(300)).stream(restart),
        )
        flipped = (run.flipped & standing).nonzero().flatten().tolist()
        assert [row.index for row in found if row.flipped_restart == restart] == flipped
        assert all(found[index].flipped_step == 3 for index in flipped)
        standing &= ~run.flipped


def test_more_restarts_reach_more_targets_and_lose_nothing_that_fell(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:300], digits.labels[:300])
    (once, _), (often, _) = (restarted(network, few, restarts, targets="random") for restarts in (1, 6))
    assert sum(row.reached is True for row in often) > sum(row.reached is True for row in once) > 0
    beside = [row.index for row in once if row.flipped_by and not row.reached]
    assert beside, "some are flipped to a class that is not their target"
    for row in once:
        now = often[row.index]
        if row.reached:
            assert now == row
        if row.flipped_by:
            assert now.flipped_by == "pgd"
            assert now.prediction != now.label


def test_a_curve_restarts_too(digits: known.Digits) -> None:
    network = known.small_network(digits)
    few = known.Digits(digits.images[:100], digits.labels[:100])

    def flipped(restarts: int) -> int:
        attack = AttackChoice(name="pgd", parameters={"steps": 1}, restarts=restarts)
        found = rows(CurveCondition(norm=Norm.LINF, eps=(0.05, 0.1), attacks=(attack,), refine=1), network, few)
        return sum(row.flipped_by is not None for row in found)

    assert flipped(8) > flipped(1)


class Small(nn.Module):
    """A device that holds five images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 5:
            raise torch.OutOfMemoryError(f"{len(images)} images")
        return self.network(images)


def test_a_batch_that_does_not_fit_is_halved(catalog: Catalog) -> None:
    spec = EvaluationSpec.model_validate(
        {
            "models": ["tiny"],
            "dataset": "shapes",
            "conditions": [
                {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.1}, "attacks": [{"name": "pgd"}]}
            ],
        }
    )
    whole, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=0, start=0, stop=33)
    small = Classifier(Small(whole.network), whole.card).eval()
    result, expected = (run_shard(spec, shard, classifier=each, dataset=dataset) for each in (small, whole))
    assert facts(result.rows) == facts(expected.rows)

    class Full(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("not even one")

    with pytest.raises(torch.OutOfMemoryError, match="not even one"):
        run_shard(spec, shard, classifier=Classifier(Full(), whole.card).eval(), dataset=dataset)


def facts(found: tuple[Row, ...]) -> list[tuple[Any, ...]]:
    return [(row.index, row.prediction, row.flipped_by, row.within_budget) for row in found]


def test_bfloat16_is_said_and_judged_in_float32(catalog: Catalog) -> None:
    def found(precision: str) -> Any:
        spec = EvaluationSpec.model_validate(
            {
                "models": ["tiny"],
                "dataset": "shapes",
                "precision": precision,
                "conditions": [
                    {"kind": "clean"},
                    {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.06}, "attacks": [{"name": "pgd"}]},
                ],
            }
        )
        return evaluate(spec, catalog=catalog, device="cpu")

    exact, fast = found("float32"), found("bfloat16")
    assert "bfloat16" in fast.to_markdown()
    assert exact.plan.id != fast.plan.id
    scores = [each.models[0].conditions[1].robust_accuracy.count for each in (exact, fast)]
    assert abs(scores[0] - scores[1]) <= 1
    assert exact.models[0].conditions[0].accuracy == fast.models[0].conditions[0].accuracy
