"""Claims: bounds that hold whenever one stops, and evaluations that stop as soon as a claim is decided."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from pydantic import ValidationError

import evaluation
from evaluation import Catalog, EvaluationSpec, preset
from evaluation.claimed import CLAIMS, ClaimedScore
from evaluation.claims import Claim, bounds
from evaluation.compute.conditions import Row
from evaluation.reports.formats.methods import methods
from evaluation.results.tally import Tally
from evaluation.results.totals import Totals
from evaluation.spec import CurveCondition
from tests.evaluation.reports.table import PLAN, SPEC, result, row


def by_enumeration(right: int, n: int, population: int, confidence: float) -> list[float]:
    """The ends by the definition: ratios of prior and posterior, from counts of samples."""

    def likelihood(in_all: int) -> float:
        return comb(in_all, right) * comb(population - in_all, n - right) / comb(population, n)

    evidence = sum(map(likelihood, range(population + 1)))
    left = [each for each in range(population + 1) if evidence < likelihood(each) * (population + 1) / (1 - confidence)]
    return [left[0] / population, left[-1] / population]


@pytest.mark.parametrize(("right", "n", "population"), [(0, 1, 5), (3, 4, 9), (20, 30, 40), (0, 25, 60), (60, 60, 60)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_bounds_are_those_of_the_definition(right: int, n: int, population: int, confidence: float) -> None:
    assert [*bounds(right, n, population, confidence)] == by_enumeration(right, n, population, confidence)


def test_bounds_say_nothing_at_first_and_all_at_the_end() -> None:
    assert bounds(0, 0, 1000, 0.95) == (0, 1)
    assert bounds(534, 1000, 1000, 0.95) == (0.534, 0.534)


@pytest.mark.parametrize("right", [4, 100, 190])
def test_whoever_looks_after_every_image_errs_as_seldom_as_was_said(right: int) -> None:
    draws, population, runs = np.random.default_rng(0), 200, 300
    images = np.arange(population) < right
    missed = 0
    for _ in range(runs):
        counts = draws.permutation(images).cumsum().tolist()
        looks = [bounds(count, n, population, 0.9) for n, count in enumerate(counts, 1)]
        missed += any(not low <= right / population <= high for low, high in looks)
    assert missed / runs <= 0.1


def test_a_fixed_interval_would_err_more_often() -> None:
    draws, population, runs = np.random.default_rng(0), 200, 300
    images = np.arange(population) < 100
    missed = 0
    for _ in range(runs):
        scores = [
            evaluation.statistics.share(count, n) for n, count in enumerate(draws.permutation(images).cumsum(), 1)
        ]
        missed += any(not each.low <= 0.5 <= each.high for each in scores[:150])
    assert missed / runs > 0.2, "else the simulation does not tell valid bounds from others"


@pytest.mark.parametrize(("right", "n", "population"), [(2, 1, 5), (-1, 1, 5), (1, 6, 5), (0, 0, 0)])
def test_numbers_that_do_not_fit_are_refused(right: int, n: int, population: int) -> None:
    with pytest.raises(ValueError, match=f"got {right}, {n} and {population}"):
        bounds(right, n, population, 0.95)


def test_answers() -> None:
    claim = Claim(claimed=0.5, tolerance=0.05)
    assert claim.answer(300, 500, 1000) == "holds"
    assert claim.answer(150, 500, 1000) == "does not hold"
    assert claim.answer(225, 500, 1000) == "cannot be told with so many images"
    assert claim.answer(450, 1000, 1000) == "holds", "exactly as high as the tolerance allows"
    assert claim.answer(449, 1000, 1000) == "does not hold"


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_condition_ends_once_its_claim_is_decided(share: float) -> None:
    claim = Claim(claimed=0.5)
    spec = SPEC.model_copy(update={"conditions": SPEC.conditions[:1], "claim": claim})
    plan = PLAN.model_copy(update={"spec": spec, "images": 400, "population": 1000, "shard_images": 20})

    def shard(start: int) -> Tally:
        rows: list[Row] = [row(index, 0, *[int(index % 10 >= 10 * share)] * 2) for index in range(start, start + 20)]
        return Tally.of(plan, result(0, rows, start=start))

    totals = Totals(plan)
    total, n = totals.by_condition["m", 0], 0
    while not total.is_certain:
        totals.add([shard(n)])
        n += 20
    assert total.is_complete and 20 < n < 200
    before, after = (claim.answer(round(share * each), each, 1000) for each in (n - 20, n))
    assert before.startswith("cannot") and not after.startswith("cannot"), "not a shard too late"


def test_images_of_a_claim_are_drawn_at_random_from_all(catalog: Catalog) -> None:
    dataset = catalog.open_dataset("shapes")
    orders = [dataset.select(None, seed, evenly=False) for seed in range(400)]
    assert all(sorted(order) == [*range(33)] for order in orders)
    firsts = np.bincount([order[0] for order in orders], minlength=33)
    assert firsts.min() > 0, "each image comes first now and then"
    same_class = np.mean([dataset.labels[order[0]] == dataset.labels[order[1]] for order in orders])
    assert same_class == pytest.approx(10 / 32, abs=0.07), "evenly from the classes, it would be 0"
    assert dataset.select(9, 5, evenly=False) == orders[5][:9]


def test_an_evaluation_says_what_came_of_its_claim(catalog: Catalog) -> None:
    claim = Claim(claimed=0.2, confidence=0.5)
    spec = EvaluationSpec(models=("tiny", "twin"), dataset="shapes", claim=claim)
    report = evaluation.evaluate(spec, catalog=catalog, device="cpu")
    assert report.complete
    for model in report.models:
        verdict, score = model.claim, model.conditions[0].accuracy
        assert verdict is not None and score is not None
        assert (verdict.right, verdict.n, verdict.population) == (score.count, score.n, 33)
        assert verdict.answer == claim.answer(score.count, score.n, 33)
        assert (verdict.low, verdict.high) == bounds(score.count, score.n, 33, 0.5)
        assert any(verdict.summary in fact for fact in report.facts())
    paragraph = methods(report)
    assert "on at most 33 images of shapes" in paragraph and ", drawn at random with seed 0" in paragraph
    assert "whether a score on the whole data set is at least 19 %" in paragraph


def test_what_differs_from_the_usual_protocol_is_listed(catalog: Catalog) -> None:
    spec = ClaimedScore.model_validate(
        {"model": "tiny", "dataset": "shapes", "claimed": 0.9, "threat": "Linf:8/255", "preset": "pgd-20", "images": 12}
    ).spec
    report = evaluation.evaluate(spec, catalog=catalog, device="cpu")
    (verdict,) = [model.claim for model in report.models]
    assert verdict is not None
    assert any("attacked by PGD-20 alone, not by all of AutoAttack's" in each for each in verdict.differences)
    assert f"{verdict.n} of 33 images were looked at, drawn at random (selection seed 0)" in verdict.differences


def test_a_claim_without_a_threat_is_about_clean_accuracy() -> None:
    clean = ClaimedScore(model="tiny", dataset="shapes", claimed=0.9).spec
    assert [each.title for each in clean.conditions] == ["clean"]
    standard = ClaimedScore.model_validate({"model": "m", "dataset": "d", "claimed": 0.5, "threat": "L2:0.5"}).spec
    assert [each.title for each in standard.conditions] == ["APGD-CE-100 + APGD-T-100 + FAB-T-100 + Square-5000 L2 0.5"]
    assert standard.claim == Claim(claimed=0.5)


def test_shards_of_images_drawn_otherwise_have_other_addresses(catalog: Catalog) -> None:
    base = {"models": ["tiny"], "dataset": "shapes"}
    plain, one, other = (
        evaluation.make_plan(EvaluationSpec.model_validate(base | more), catalog)
        for more in ({}, {"claim": {"claimed": 0.5}}, {"claim": {"claimed": 0.7}})
    )
    addresses = [plan.address(plan.shards[0]) for plan in (plain, one, other)]
    assert addresses[1] == addresses[2], "what is claimed changes nothing about an image"
    assert addresses[0] != addresses[1]
    assert len({plan.id for plan in (plain, one, other)}) == 3
    assert "claim" not in plain.spec.model_dump(), "a specification without one is what it was before there were any"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"conditions": preset("rotation-flip")}, "a claim is about one condition, got"),
        ({"stop_width": 0.1}, "a claim says itself when to stop"),
        ({"claim": {"claimed": 1.5}}, "less than or equal to 1"),
        ({"claim": {"claimed": 0.5, "confidence": 1}}, "less than 1"),
    ],
)
def test_what_is_no_claim_is_refused(more: dict[str, object], problem: str) -> None:
    asked = {"models": ["tiny"], "dataset": "shapes", "claim": {"claimed": 0.5}} | more
    with pytest.raises(ValidationError, match=problem):
        EvaluationSpec.model_validate(asked)


def test_a_curve_has_no_one_score_to_claim() -> None:
    curve = CurveCondition.model_validate({"norm": "Linf", "eps": ["1/255", "2/255"], "attacks": [{"name": "pgd"}]})
    with pytest.raises(ValidationError, match="a curve has one for each radius"):
        EvaluationSpec(models=("tiny",), dataset="shapes", conditions=(curve,), claim=Claim(claimed=0.5))


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        ("[]", "at least 1"),
        ('[{"model": "m", "dataset": "d", "claimed": 0.5, "threat": "8/255"}]', "a threat is NORM:EPS"),
        ('[{"model": "m", "dataset": "d", "claimed": 0.5, "score": 0.5}]', "Extra inputs"),
    ],
)
def test_a_file_that_is_no_list_of_claims_is_refused(claims: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CLAIMS.validate_json(claims)


def test_a_preset_with_several_scores_is_refused() -> None:
    claim = ClaimedScore(model="m", dataset="d", claimed=0.5, preset="rotation-flip")
    with pytest.raises(ValueError, match="rotation-flip has 5 scores beside the clean one"):
        _ = claim.spec


def test_bounds_only_narrow_where_the_images_agree() -> None:
    widths = [high - low for low, high in (bounds(n // 2, n, 1000, 0.95) for n in range(0, 1001, 100))]
    assert all(later < earlier for earlier, later in pairwise(widths))
