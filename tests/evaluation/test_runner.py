"""Running shards of tiny real models: the same numbers however the work is cut."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import attacks
import evaluation.plan
import evaluation.runner
import models
from evaluation import (
    Catalog,
    DatasetError,
    EvaluationSpec,
    Report,
    Shard,
    ShardResult,
    evaluate,
    make_plan,
    merge,
    preset,
    run_shard,
)
from evaluation.evaluate import best_device
from evaluation.plan import label_map
from evaluation.runner import furthest
from evaluation.spec import AdversarialCondition, Condition
from tests.conftest import Put, without_times
from tests.evaluation.test_report import row as a_row

CONDITIONS = [
    {"kind": "clean"},
    {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}},
    {
        "kind": "adversarial",
        "threat": {"norm": "Linf", "eps": "16/255"},
        "attacks": [{"name": "pgd", "parameters": {"steps": 3}}],
    },
    {
        "kind": "adversarial",
        "threat": {"norm": "L2", "eps": 1.5},
        "attacks": [{"name": "noise"}, {"name": "fgsm"}, {"name": "pgd", "parameters": {"steps": 3}, "restarts": 2}],
    },
    {
        "kind": "adversarial",
        "threat": {"norm": "Linf", "eps": "16/255"},
        "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
        "targets": "random",
    },
]


def spec(**changes: object) -> EvaluationSpec:
    facts = {"models": ["tiny"], "dataset": "shapes", "conditions": CONDITIONS, **changes}
    return EvaluationSpec.model_validate(facts)


@pytest.fixture(scope="module")
def whole(catalog: Catalog) -> Report:
    return evaluate(spec(), catalog=catalog, device="cpu")


def test_a_model_that_has_learned_falls_under_attack(whole: Report) -> None:
    clean, _, linf, l2, targeted = whole.models[0].conditions
    assert whole.complete
    assert clean.accuracy is not None
    assert clean.accuracy.value > 0.9
    for condition in (linf, l2, targeted):
        assert condition.robust_accuracy is not None
        assert condition.robust_accuracy.value < clean.accuracy.value
        assert condition.outside_budget == ()
    assert targeted.target_rate is not None
    assert linf.target_rate is None


@pytest.mark.parametrize(("shard_images", "batch_pixels"), [(7, 2**20), (33, 5 * 32 * 32), (4, 3 * 32 * 32)])
def test_shards_and_batches_do_not_change_the_report(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, whole: Report, shard_images: int, batch_pixels: int
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", shard_images)
    monkeypatch.setattr(evaluation.runner, "BATCH_PIXELS", batch_pixels)
    assert without_times(evaluate(spec(), catalog=catalog, device="cpu")) == without_times(whole)


def test_shards_run_in_any_order_give_the_same_report(catalog: Catalog, whole: Report) -> None:
    plan = make_plan(spec(), catalog)
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    results = [run_shard(plan.spec, shard, classifier=classifier, dataset=dataset) for shard in reversed(plan.shards)]
    assert without_times(merge(plan, results)) == without_times(whole)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_every_device_reaches_the_same_verdicts(catalog: Catalog, whole: Report, device: str) -> None:
    there = evaluate(spec(), catalog=catalog, device=device).models[0].conditions
    for ours, theirs in zip(whole.models[0].conditions, there, strict=True):
        assert ours.score is not None
        assert theirs.score is not None
        assert abs(ours.score.count - theirs.score.count) <= (0 if device == "cpu" else 1)


def test_a_larger_selection_repeats_the_rows_of_a_smaller_one(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=2, start=0, stop=9)
    small = run_shard(spec(images=9), shard, classifier=classifier, dataset=dataset)
    large = run_shard(spec(images=30), shard, classifier=classifier, dataset=dataset)
    assert small.rows == large.rows


class Counting(nn.Module):
    """Counts the images that it sees."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.images = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.inner(images)


CURVE = {
    "kind": "curve",
    "norm": "Linf",
    "eps": ["4/255", "16/255"],
    "attacks": [{"name": "apgd", "parameters": {"steps": 3}}],
    "refine": 1,
}


def rounded(result: ShardResult) -> dict[str, object]:
    """Without times, and without what the last bits of logits decide: they depend on the images that share a batch."""
    return result.model_dump(exclude={"seconds": True, "examples": True, "rows": {"__all__": ROUNDED}})


ROUNDED = {"clean_confidence", "confidence", "distance"}


@pytest.mark.parametrize("condition", range(len(CONDITIONS) + 1))
@pytest.mark.parametrize(
    ("start", "known", "same_batches"),
    [(0, 9, False), (0, 20, True), (0, 30, True), (5, 6, False), (5, 25, True), (5, 29, False)],
)
def test_a_shard_goes_on_from_what_is_known_as_if_from_nothing(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, condition: int, start: int, known: int, same_batches: bool
) -> None:
    """Twenty images make a batch: where the same ones share a batch, all is equal to the bit."""
    monkeypatch.setattr(evaluation.runner, "BATCH_PIXELS", 20 * 32 * 32)
    loaded, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    classifier = models.Classifier(counting := Counting(loaded.network), loaded.card).eval()
    asked = spec(conditions=[*CONDITIONS, CURVE])

    def run(stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=condition, start=start, stop=stop)
        counting.images = 0
        return run_shard(asked, shard, classifier=classifier, dataset=dataset, known=known)

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
    loaded, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    classifier = models.Classifier(counting := Counting(loaded.network), loaded.card).eval()
    asked = spec(conditions=[*CONDITIONS, CURVE])

    def run(stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=condition, start=start, stop=stop)
        counting.images = 0
        return run_shard(asked, shard, classifier=classifier, dataset=dataset, known=known)

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


CASCADE = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "32/255"},
    "attacks": [
        {"name": "pgd", "parameters": {"steps": 1, "step_size": "4/255"}, "restarts": 3},
        {"name": "pgd", "parameters": {"steps": 2, "step_size": "2/255"}, "restarts": 2},
    ],
}


def test_a_cascade_begins_with_what_shorter_ones_did() -> None:
    (condition,) = spec(conditions=[CASCADE]).conditions
    assert isinstance(condition, AdversarialCondition)
    assert [each.title for each in condition.beginnings] == [
        "PGD-1 x 3 + PGD-2 Linf 32/255",
        "PGD-1 x 3 Linf 32/255",
        "PGD-1 x 2 Linf 32/255",
        "PGD-1 Linf 32/255",
    ]


@pytest.mark.parametrize("targets", [None, "random"])
@pytest.mark.parametrize(("start", "stop"), [(0, 33), (5, 33), (0, 20)])
def test_more_restarts_and_attacks_go_on_from_fewer_as_if_from_nothing(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog, start: int, stop: int, targets: str | None
) -> None:
    """The smallest batches: whatever shares one, all is equal to the bit."""
    monkeypatch.setattr(evaluation.runner, "BATCH_PIXELS", 32 * 32)
    loaded, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    classifier = models.Classifier(counting := Counting(loaded.network), loaded.card).eval()
    (condition,) = spec(conditions=[CASCADE | {"targets": targets}]).conditions

    def run(condition: Condition, stop: int, known: ShardResult | None = None) -> ShardResult:
        shard = Shard(model="tiny", condition=0, start=start, stop=stop)
        counting.images = 0
        return run_shard(
            spec(conditions=[condition]), shard, classifier=classifier, dataset=dataset, known=known
        ).model_copy(update={"seconds": 0})

    assert isinstance(condition, AdversarialCondition)
    whole = run(condition, 33)
    from_nothing = counting.images
    assert {row.felled_restart for row in whole.rows} == {None, 0, 1, 2}
    for shorter in condition.beginnings:
        first = run(shorter, stop)
        spent = counting.images
        assert run(condition, 33, first) == whole
        assert first.rounds < whole.rounds
        if start:  # nothing is checked there: what is open passes once more as it is
            assert counting.images == from_nothing - spent + sum(row.open(shorter) for row in first.rows)


def test_what_left_the_ball_in_an_early_round_is_not_forgotten() -> None:
    early = a_row(0, 1, 1, 1, within_budget=False, distance=0.3)
    assert not early.followed_by(a_row(0, 1, 1, 1, within_budget=True, distance=0.1)).within_budget
    beside = a_row(0, 1, 1, 5, felled_by="pgd", reached=False)
    assert beside.followed_by(a_row(0, 1, 1, 1, reached=False)) == beside
    reached = a_row(0, 1, 1, 7, felled_by="pgd", felled_restart=1, reached=True)
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


def test_the_seed_changes_images_and_draws(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=4, start=0, stop=33)
    first, second = (run_shard(spec(seed=seed), shard, classifier=classifier, dataset=dataset) for seed in (0, 1))
    assert sorted(row.index for row in first.rows) == sorted(row.index for row in second.rows)
    by_index = {row.index: row.confidence for row in second.rows}
    assert any(row.confidence != by_index[row.index] for row in first.rows)


def test_the_worst_case_names_the_attack_that_felled_and_spares_the_fallen(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=3, start=0, stop=33)
    result = run_shard(spec(), shard, classifier=classifier, dataset=dataset)
    felled = {row.felled_by for row in result.rows}
    assert felled <= {None, "noise", "fgsm", "pgd"}
    assert len(felled) > 1
    for row in result.rows:
        if row.felled_by:
            assert row.clean_prediction == row.label != row.prediction
        assert row.distance is not None
        assert row.distance <= 1.5 + 1e-6
    alone = run_shard(
        spec(conditions=[CONDITIONS[3] | {"attacks": [{"name": "noise"}]}]),
        shard.model_copy(update={"condition": 0}),
        classifier=classifier,
        dataset=dataset,
    )
    assert sum(row.felled_by is not None for row in result.rows) >= sum(row.felled_by is not None for row in alone.rows)


def test_classes_in_another_order_are_matched_by_name(catalog: Catalog, tmp_path: Path, put_checkpoint: Put) -> None:
    shuffled = ("stripes", "disc", "square")
    put_checkpoint(tmp_path, "shuffled", classes=shuffled)
    other = Catalog((tmp_path,), catalog.dataset_folders)
    classifier = other.load_model("shuffled")
    order = [("disc", "square", "stripes").index(name) for name in shuffled]
    with torch.no_grad():
        classifier.network.fc.weight.copy_(classifier.network.fc.weight[order])  # pyright: ignore
        classifier.network.fc.bias.copy_(classifier.network.fc.bias[order])  # pyright: ignore
    shard = Shard(model="shuffled", condition=0, start=0, stop=33)
    result = run_shard(spec(models=["shuffled"]), shard, classifier=classifier, dataset=other.open_dataset("shapes"))
    assert sum(row.prediction == row.label for row in result.rows) > 30


def test_other_classes_are_refused(catalog: Catalog, tmp_path: Path, put_checkpoint: Put) -> None:
    put_checkpoint(tmp_path, "other", classes=("disc", "square", "ring"))
    with pytest.raises(DatasetError, match=r"model other has 3 classes, shapes.zip has 3; .* does not know: stripes"):
        make_plan(spec(models=["other"]), Catalog((tmp_path,), catalog.dataset_folders))


@pytest.mark.parametrize("classes", [("disc", "square"), tuple("abcd")])
def test_another_number_of_classes_is_refused(catalog: Catalog, classes: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=rf"model m has {len(classes)} classes, shapes.zip has 3"):
        label_map(classes, catalog.open_dataset("shapes"), "m")


def test_names_that_have_nothing_in_common_are_taken_in_order(catalog: Catalog) -> None:
    assert label_map(("n01", "n02", "n03"), catalog.open_dataset("shapes"), "m") == [0, 1, 2]


class Broken(nn.Module):
    """Answers NaN for half of the images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        logits[::2] = float("nan")
        return logits


def test_logits_that_are_not_finite_are_never_right_by_rank(catalog: Catalog) -> None:
    loaded = catalog.load_model("tiny")
    classifier = models.Classifier(Broken(loaded.network), loaded.card).eval()
    shard = Shard(model="tiny", condition=0, start=0, stop=10)
    rows = run_shard(spec(), shard, classifier=classifier, dataset=catalog.open_dataset("shapes")).rows
    assert [row.confidence is None for row in rows] == [True, False] * 5
    assert all(row.rank == 3 for row in rows[::2])


def test_every_preset_runs(catalog: Catalog) -> None:
    for name in evaluation.preset_names():
        if name != "pgd-100":  # the same code as pgd-20
            report = evaluate(spec(conditions=[c.model_dump() for c in preset(name)], images=4), catalog=catalog)
            assert report.complete, name


def test_an_evaluation_ends_early_where_it_is_certain_enough(monkeypatch: pytest.MonkeyPatch, catalog: Catalog) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 4)
    seen: list[int] = []
    report = evaluate(
        spec(conditions=CONDITIONS[:2], stop_width=0.5),
        catalog=catalog,
        on_shard=lambda result, *_: seen.append(result.shard.start),
    )
    assert report.complete
    clean = report.models[0].conditions[0].accuracy
    assert clean is not None
    assert clean.n == 4, "right on all four, the interval is 0.49 wide"
    assert len(seen) < 9 + 9
    for condition in report.models[0].conditions:
        assert condition.accuracy is not None
        assert condition.accuracy.high - condition.accuracy.low <= 0.5


def test_progress_is_told_shard_by_shard(catalog: Catalog) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        spec(conditions=CONDITIONS[:2]), catalog=catalog, on_shard=lambda _, done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]


def test_the_device_is_chosen_by_what_is_there() -> None:
    assert best_device() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_attack_from_a_prompt(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    images = torch.stack([classifier.card.preprocessing(dataset.picture(index)) for index in range(8)])
    labels = torch.tensor(dataset.labels[:8])
    adversarial = attacks.create("pgd", steps=10).perturb(
        classifier,
        images,
        labels,
        threat=attacks.ThreatModel("Linf", 8 / 255),
        generator=torch.Generator().manual_seed(0),
    )
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-6
    assert (classifier(adversarial).argmax(1) == labels).sum() < (classifier(images).argmax(1) == labels).sum()


def test_a_checkpoint_that_cannot_be_loaded_is_refused_before_any_work(
    catalog: Catalog, tmp_path: Path, put_checkpoint: Put
) -> None:
    put_checkpoint(tmp_path, "wide", options={"widths": [4, 4, 16], "blocks": 1})
    with pytest.raises(models.CheckpointError, match=r"wide.safetensors does not fit resnet_mini with 3 classes"):
        make_plan(spec(models=["wide"]), Catalog((tmp_path,), catalog.dataset_folders))
    put_checkpoint(tmp_path, "wide")  # mended
    assert make_plan(spec(models=["wide"]), Catalog((tmp_path,), catalog.dataset_folders)).images == 33


def test_a_card_that_changes_the_answers_makes_another_question(
    catalog: Catalog, tmp_path: Path, put_checkpoint: Put
) -> None:
    mine = Catalog((tmp_path,), catalog.dataset_folders)

    def plan_id(**changes: object) -> str:
        put_checkpoint(tmp_path, "mine", **changes)
        return make_plan(spec(models=["mine"]), mine).id

    plain = plan_id()
    brighter = {"resize": 32, "crop": 32, "mean": [0.4] * 3, "std": [0.25] * 3}
    assert plan_id(preprocessing=brighter) != plain
    assert plan_id(classes=("square", "disc", "stripes")) != plain
    assert plan_id(training="told at greater length") == plain
