"""Shards that go on from what is known: their results are those of a run from nothing."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn

import evaluation.compute.runner
import models
from evaluation import Catalog, Shard, ShardResult, run_shard
from evaluation.compute.runner import furthest
from evaluation.spec import AdversarialCondition, Condition
from tests.evaluation.reports.table import row as a_row
from tests.evaluation.specs import CASCADE, CONDITIONS, CURVE, spec


class Counting(nn.Module):
    """Counts the images that it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.images = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.inner(images)


def rounded(result: ShardResult) -> dict[str, object]:
    """Without times, and without what the last bits of logits decide: they depend on the images that share a batch."""
    return result.model_dump(exclude={"seconds": True, "examples": True, "rows": {"__all__": ROUNDED}})


ROUNDED = {"clean_confidence", "confidence", "distance"}


def counted_runs(catalog: Catalog, condition: int, start: int) -> tuple[Counting, Callable[..., ShardResult]]:
    """A network that counts images, and what runs a shard with it from `start` to a stop."""
    loaded, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    classifier = models.Classifier(counting := Counting(loaded.network), loaded.card).eval()
    asked = spec(conditions=[*CONDITIONS, CURVE])

    def run(stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=condition, start=start, stop=stop)
        counting.images = 0
        return run_shard(asked, shard, classifier=classifier, dataset=dataset, known=known)

    return counting, run


MORE = ((0, 9, False), (0, 30, True), (5, 25, True), (5, 29, False))


@pytest.mark.parametrize("condition", range(len(CONDITIONS) + 1))
@pytest.mark.parametrize(
    ("start", "known", "same_batches"),
    [
        (0, 20, True),
        (5, 6, False),
        *(pytest.param(*each, marks=pytest.mark.thorough) for each in MORE),
    ],
)
def test_a_shard_goes_on_from_what_is_known_as_if_from_nothing(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, condition: int, start: int, known: int, same_batches: bool
) -> None:
    """Twenty images make a batch: where the same ones share a batch, all is equal to the bit."""
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 20 * 32 * 32)
    counting, run = counted_runs(catalog, condition, start)

    first, whole = run(known), run(30)
    grown = run(30, first)
    if start:
        assert counting.images == whole.images_forwarded - first.images_forwarded
    assert grown.seconds > first.seconds
    assert rounded(grown) == rounded(whole)
    if same_batches:
        assert grown.model_copy(update={"seconds": 0}) == whole.model_copy(update={"seconds": 0})
    for name in ROUNDED:
        theirs, ours = ([getattr(row, name) for row in result.rows] for result in (whole, grown))
        assert ours == [value if value is None else pytest.approx(value, abs=1e-3) for value in theirs]
    assert [each.index for each in grown.examples] == [each.index for each in whole.examples]


@pytest.mark.parametrize("condition", range(len(CONDITIONS) + 1))
@pytest.mark.parametrize("start", [0, 5])
def test_a_smaller_shard_is_cut_from_a_larger_one(catalog: Catalog, condition: int, start: int) -> None:
    counting, run = counted_runs(catalog, condition, start)

    small, large = run(15), run(30)
    cut = furthest([large], small.shard)
    assert cut is not None
    found = run(15, cut)
    without_cost = [each.model_copy(update={"images_forwarded": 0}) for each in (found, small)]
    assert rounded(without_cost[0]) == rounded(without_cost[1])
    assert [each.index for each in found.examples] == [each.index for each in small.examples]
    assert found.images_forwarded == round(large.images_forwarded * (15 - start) / (30 - start))
    if start:
        assert counting.images == 0


def test_a_cascade_begins_with_what_shorter_ones_did() -> None:
    (condition,) = spec(conditions=[CASCADE]).conditions
    assert isinstance(condition, AdversarialCondition)
    assert [each.title for each in condition.shorter_cascades] == [
        "PGD-1 x 3 + PGD-2 Linf 32/255",
        "PGD-1 x 3 Linf 32/255",
        "PGD-1 x 2 Linf 32/255",
        "PGD-1 Linf 32/255",
    ]


@pytest.mark.parametrize(
    ("start", "stop", "targets"),
    [
        (5, 33, None),
        (0, 20, "random"),
        *(
            pytest.param(*each, marks=pytest.mark.thorough)
            for each in ((0, 33, None), (0, 33, "random"), (5, 33, "random"))
        ),
    ],
)
def test_more_restarts_and_attacks_go_on_from_fewer_as_if_from_nothing(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, start: int, stop: int, targets: str | None
) -> None:
    """The smallest batches: whatever shares one, all is equal to the bit."""
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 32 * 32)
    loaded, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    classifier = models.Classifier(counting := Counting(loaded.network), loaded.card).eval()
    (condition,) = spec(seed=2, conditions=[CASCADE | {"targets": targets}]).conditions

    def run(condition: Condition, stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=0, start=start, stop=stop)
        counting.images = 0
        return run_shard(
            spec(seed=2, conditions=[condition]), shard, classifier=classifier, dataset=dataset, known=known
        ).model_copy(update={"seconds": 0})

    assert isinstance(condition, AdversarialCondition)
    whole = run(condition, 33)
    from_nothing = counting.images
    assert {row.flipped_restart for row in whole.rows} == {None, 0, 1, 2}
    for shorter in condition.shorter_cascades:
        first = run(shorter, stop)
        spent = counting.images
        assert run(condition, 33, first) == whole
        assert first.rounds < whole.rounds
        if start:  # nothing is checked there: what is open passes once more as it is
            assert counting.images == from_nothing - spent + sum(row.open(shorter) for row in first.rows)


def test_what_left_the_ball_in_an_early_round_is_not_forgotten() -> None:
    early = a_row(0, 1, 1, 1, within_budget=False, distance=0.3)
    assert not early.followed_by(a_row(0, 1, 1, 1, within_budget=True, distance=0.1)).within_budget
    beside = a_row(0, 1, 1, 5, flipped_by="pgd", reached=False)
    assert beside.followed_by(a_row(0, 1, 1, 1, reached=False)) == beside
    reached = a_row(0, 1, 1, 7, flipped_by="pgd", flipped_restart=1, reached=True)
    assert beside.followed_by(reached) == reached


def test_what_is_known_from_other_versions_or_hardware_is_computed_anew(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")

    def run(stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=2, start=0, stop=stop)
        return run_shard(spec(), shard, classifier=classifier, dataset=dataset, known=known)

    first = run(9)
    row = first.rows[0].model_copy(update={"confidence": 0.123})
    altered = first.model_copy(update={"rows": (row, *first.rows[1:])})
    assert run(30, altered).rows[0] == row
    assert run(30, altered.model_copy(update={"made_with": "withstand 0, an abacus"})).rows == run(30).rows
