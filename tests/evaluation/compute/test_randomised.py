"""Randomised models: shares of passes that are known exactly, and rows that depend on nothing but the image."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.choices import Averaging
from evaluation.compute.conditions import Batch, Row
from evaluation.compute.randomised import run_randomised
from evaluation.spec import AdversarialCondition, CleanCondition, Condition
from evaluation.statistics import Proportion, share_of_passes
from evaluation.statistics import share as counted
from tests.evaluation.noisy import NoisyGradient, NoisyLinear, linear_batch, right_share

AVERAGING = Averaging(eot_passes=20, judged_passes=10)
LINF, L2 = 0.01, 0.15
EPS = {"Linf": LINF, "L2": L2}


def attacked(name: str, norm: str = "Linf", eps: float | None = None, **parameters: object) -> Condition:
    threat: Any = {"norm": norm, "eps": eps or EPS[norm]}
    choice: Any = {"name": name, "parameters": parameters}
    return AdversarialCondition(threat=threat, attacks=(choice,))


def rows_of(condition: Condition, batch: Batch, averaging: Averaging = AVERAGING) -> list[Row]:
    return run_randomised(condition, batch, averaging).rows(batch)


def share(rows: list[Row], averaging: Averaging = AVERAGING) -> Proportion:
    found = share_of_passes(Counter(row.correct or 0 for row in rows), averaging.judged_passes)
    assert found is not None
    return found


def test_clean_passes_are_right_as_often_as_the_distance_says() -> None:
    batch = linear_batch(200)
    found, known = share(rows_of(CleanCondition(), batch)), right_share(batch)
    assert found.low <= known <= found.high
    assert found.high - found.low < 0.08


@pytest.mark.parametrize(
    ("name", "norm", "parameters"),
    [
        ("pgd", "Linf", {"steps": 5}),
        ("pgd", "L2", {"steps": 5}),
        ("apgd", "Linf", {"steps": 5}),
        ("apgd", "L2", {"steps": 5, "loss": "targeted_dlr"}),
    ],
)
def test_averaged_gradients_reach_the_worst_case(name: str, norm: str, parameters: dict[str, object]) -> None:
    batch = linear_batch(60)
    found, known = share(rows_of(attacked(name, norm, **parameters), batch)), right_share(batch, norm, EPS[norm])
    assert known < right_share(batch) - 0.2
    assert found.low <= known <= found.high


def test_square_comes_close_without_gradients() -> None:
    batch = linear_batch(8)
    found = share(rows_of(attacked("square", queries=100), batch))
    worst, clean = right_share(batch, "Linf", LINF), right_share(batch)
    assert worst - 0.1 < found.value < worst + 0.4 * (clean - worst)


def test_a_single_pass_misleads_where_its_gradient_is_mostly_noise() -> None:
    """On the linear model every pass has the same gradient, so that one is enough; here one points almost anywhere."""
    batch = linear_batch(16, NoisyGradient, reach=12.0)
    condition = attacked("pgd", eps=0.05, steps=8)
    many = share(rows_of(condition, batch, Averaging(20, 40)), Averaging(20, 40))
    one = share(rows_of(condition, batch, Averaging(1, 40)), Averaging(1, 40))
    assert many.value < one.value - 0.1


@pytest.mark.parametrize("name", ["pgd", "square", "torchattacks:PGD"])
def test_a_row_depends_on_nothing_but_its_image(name: str) -> None:
    batch = linear_batch(5)
    parameters: dict[str, object] = {"queries": 5} if name == "square" else {"steps": 2}
    condition = attacked(name, "Linf", **parameters)
    together = rows_of(condition, batch)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    chosen = [3, 1]
    some = Batch(
        batch.classifier, batch.searched, batch.images[chosen], batch.labels[chosen], chosen, batch.seed
    )  # fmt: skip
    assert rows_of(condition, some) == [together[position] for position in chosen]
    assert torch.equal(torch.get_rng_state(), state)


def test_no_image_is_judged_by_passes_that_its_attack_saw() -> None:
    """Of a model that only notes its noise, no two of the passes of an image are alike."""
    seen: list[Tensor] = []

    class Noting(NoisyLinear):
        def forward(self, images: Tensor) -> Tensor:
            state = torch.get_rng_state()
            seen.append(torch.randn(1))
            torch.set_rng_state(state)
            return super().forward(images)

    batch = linear_batch(1, Noting)
    rows_of(attacked("pgd", steps=3), batch)
    firsts = Counter(round(float(each), 6) for each in seen)
    choices = [count for count in firsts.values() if count > 1]
    assert len(firsts) == 1 + 3 + 1 + 1  # as it is, steps, choice, verdict
    assert choices == [2]  # the image as it is and the attacked one are chosen between by the same passes


def test_more_evaluations_of_another_seed_draw_other_passes() -> None:
    batch = linear_batch(20)
    other = Batch(batch.classifier, batch.searched, batch.images, batch.labels, batch.indices, batch.seed + 1)
    first, second = (rows_of(CleanCondition(), each) for each in (batch, other))
    assert [row.correct for row in first] != [row.correct for row in second]


def test_the_image_as_it_is_counts_where_no_attack_finds_a_worse_one() -> None:
    batch = linear_batch(4, reach=0.0)
    (row, *_) = rows_of(attacked("pgd", steps=1, step_size=0.0, random_start=False), batch)
    assert row.distance == 0.0
    assert row.flipped_by is None


def test_wilsons_interval_is_the_one_of_images_that_are_all_right_or_all_wrong() -> None:
    found = share_of_passes({10: 83, 0: 17}, 10)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((counted(83, 100).low, counted(83, 100).high))
    narrower = share_of_passes({8: 50, 9: 50}, 10)
    assert narrower is not None
    assert narrower.high - narrower.low < found.high - found.low
