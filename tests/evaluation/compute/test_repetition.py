"""What stands after a search in lower precision is attacked once more in float32."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import evaluation.compute.runner
from common.float32 import float32_as, float32_meaning
from evaluation import Catalog, EvaluationSpec, Shard, ShardResult, make_plan, merge, run_shard
from evaluation.compute.conditions import Batch, Outcome, Row, run_condition
from evaluation.spec import AdversarialCondition, Attacking, Condition
from models import Classifier, Precision
from tests.attacks import digits as known
from tests.evaluation.specs import CASCADE, CURVE, spec


class Coarse(nn.Module):
    """The network it is made of, without the gradient of the pixels whose place in the picture is not a multiple of `stride`."""

    def __init__(self, inner: nn.Module, stride: int) -> None:
        super().__init__()
        self.inner, self.stride = inner, stride
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.zeros_like(images).flatten(1)
        seen[:, :: self.stride] = 1
        seen = seen.view_as(images)
        return self.inner(images * seen + (images * (1 - seen)).detach())


@pytest.fixture(scope="module")
def digits() -> known.Digits:
    found = known.load()
    return known.Digits(found.images[:300], found.labels[:300])


def attacked(
    condition: Condition, network: nn.Module, digits: known.Digits, precision: Precision, searched: nn.Module
) -> tuple[list[Row], Outcome]:
    roles = cast(Classifier, network), cast(Classifier, searched)
    batch = Batch(*roles, digits.images, digits.labels, range(len(digits.labels)), seed=0, precision=precision)
    outcome = run_condition(condition, batch)
    return outcome.rows(batch), outcome


def condition_of(**facts: Any) -> Condition:
    (condition,) = spec(conditions=[facts]).conditions
    return condition


PGD = {"name": "pgd", "parameters": {"steps": 3, "step_size": 0.02, "counts": "last_step"}}
ONE = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.15}, "attacks": [PGD]}
SWEEP = {"kind": "curve", "norm": "Linf", "eps": [0.05, 0.1, 0.15], "attacks": [PGD], "refine": 2}


class Meaning(nn.Module):
    """Notes what float32 means in its forward passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, list[str]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(float32_meaning())
        return self.inner(images)


@pytest.mark.parametrize(("precision", "searched_in"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "tf32")])
def test_only_a_search_in_lower_precision_rounds_and_its_repetition_does_not(
    precision: Precision, searched_in: str, digits: known.Digits
) -> None:
    network = known.small_network(digits)
    judge, searched = Meaning(network).eval(), Meaning(network).eval()
    with float32_as("ieee"):
        attacked(condition_of(**ONE), judge, digits, precision, searched)
    assert set(judge.seen) == {"ieee"}
    assert set(searched.seen) == {searched_in}
    repeated = len(judge.seen) > 4
    assert repeated == (precision != "float32")


@pytest.mark.parametrize("asked", [ONE, SWEEP], ids=["ball", "curve"])
def test_a_search_that_finds_nothing_ends_with_what_float32_finds(asked: dict[str, Any], digits: known.Digits) -> None:
    network, condition = known.small_network(digits), condition_of(**asked)
    exact, _ = attacked(condition, network, digits, "float32", network)
    blind, _ = attacked(condition, network, digits, "float32", Coarse(network, 10_000))
    rough, _ = attacked(condition, network, digits, "bfloat16", Coarse(network, 10_000))
    flipped = [row.index for row in exact if row.flipped_by]
    assert len([row for row in blind if row.flipped_by]) < len(flipped) / 2
    assert {row.index for row in rough if row.flipped_by} >= set(flipped)
    again = [row for row in rough if row.flipped_in_float32]
    assert again
    for row in again:
        assert (row.flipped_by, row.flipped_eps) == (exact[row.index].flipped_by, exact[row.index].flipped_eps)
    assert not any(row.flipped_in_float32 for row in [*exact, *blind])


def test_the_last_restart_is_repeated_on_what_stands_and_counted(digits: known.Digits) -> None:
    network, condition = known.small_network(digits), condition_of(**{**ONE, "attacks": [PGD | {"restarts": 2}]})
    assert isinstance(condition, AdversarialCondition)
    without, before = attacked(condition, network, digits, "float32", coarse := Coarse(network, 7))
    rough, after = attacked(condition, network, digits, "bfloat16", coarse)
    standing = [row.index for row in without if row.clean_prediction == row.label and not row.flipped_by]
    assert after.images_forwarded - before.images_forwarded == len(standing) * (3 + 1)
    flipped = [row for row in rough if row.flipped_in_float32]
    assert {row.index for row in flipped} < set(standing)
    assert {row.flipped_restart for row in flipped} == {1}
    asked = EvaluationSpec(models=("a",), dataset="b", conditions=(condition,), precision="bfloat16")
    once = condition.attacks[0].create().passes + 1
    assert asked.passes(condition) == condition.passes + once == 1 + 3 * once
    curve = condition_of(**SWEEP)
    assert isinstance(curve, Attacking)
    assert asked.passes(curve) == 1 + 2 * once * (3 + 2)


@pytest.mark.parametrize(("start", "targets"), [(0, None), (5, "random")])
def test_longer_cascades_go_on_from_shorter_ones_as_if_from_nothing(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, start: int, targets: str | None
) -> None:
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 32 * 32)
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    condition = condition_of(**CASCADE, targets=targets)

    def run(condition: Condition, stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=0, start=start, stop=stop)
        asked = spec(conditions=[condition], precision="bfloat16")
        return run_shard(
            asked, shard, classifier=classifier, dataset=dataset, searched=Coarse(classifier, 5), known=known
        ).model_copy(update={"seconds": 0, "images_forwarded": 0})

    assert isinstance(condition, AdversarialCondition)
    whole, repeated = run(condition, 20), 0
    for shorter in condition.shorter_cascades:
        first = run(shorter, 12)
        repeated += sum(row.flipped_in_float32 for row in first.rows)
        assert run(condition, 20, first) == whole
    assert repeated


def test_a_report_says_what_fell_in_float32_alone(catalog: Catalog) -> None:
    asked = spec(models=["tiny"], conditions=[{"kind": "clean"}, CURVE, CASCADE], precision="bfloat16", images=33)
    plan = make_plan(asked, catalog)
    roles = catalog.load_folded("tiny", "cpu", "bfloat16")._asdict() | {
        "searched": Coarse(catalog.load_model("tiny"), 5)
    }
    results = [run_shard(asked, shard, dataset=catalog.open_dataset("shapes"), **roles) for shard in plan.shards]
    report = merge(plan, results)
    flipped = [each.flipped_in_float32 for each in report.models[0].conditions]
    assert flipped[0] == 0 < flipped[2] == sum(row.flipped_in_float32 for row in results[2].rows)
    assert f"tiny: {sum(flipped)} of 66 attacked images were flipped in float32 alone" in report.to_markdown()
    exact = merge(make_plan(asked.model_copy(update={"precision": "float32"}), catalog), [])
    assert "in float32 alone" not in exact.to_markdown()
