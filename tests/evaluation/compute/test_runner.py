"""Running shards of tiny real models: the same numbers however the work is cut."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import attacks
import evaluation.compute.progress
import evaluation.compute.runner
import evaluation.plan
import models
from attacks import Captured
from evaluation import (
    Catalog,
    DatasetError,
    Report,
    Shard,
    evaluate,
    make_plan,
    merge,
    preset,
    run_shard,
)
from evaluation.local import best_device
from tests.conftest import Put, without_times
from tests.evaluation.specs import CONDITIONS, spec


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
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", batch_pixels)
    assert without_times(evaluate(spec(), catalog=catalog, device="cpu")) == without_times(whole)


def test_groups_that_a_searched_copy_takes_apart_give_the_same_report(catalog: Catalog) -> None:
    plan = make_plan(spec(), catalog, device="cuda")
    assert plan.id == make_plan(spec(), catalog).id
    assert [shard.images for shard in plan.shards] == [33] * len(plan.shards)
    dataset, roles = catalog.open_dataset("shapes"), catalog.load_folded("tiny", "cpu", "float32")
    sizes: set[int] = set()
    searched = copy.deepcopy(roles.classifier)
    searched.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))

    def report(searched: nn.Module) -> Report:
        given = roles._asdict() | {"searched": searched}
        return merge(plan, [run_shard(plan.spec, shard, dataset=dataset, **given) for shard in plan.shards])

    apart = report(Captured(searched, lambda run: run, batch=8))
    assert max(sizes) == 8
    assert without_times(apart) == without_times(report(copy.deepcopy(roles.classifier)))


def test_a_gpu_has_larger_shards_of_the_same_evaluation(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.plan, "GPU_SHARD_IMAGES", 20)
    plan = make_plan(spec(), catalog, device="cuda:1")
    assert [(shard.start, shard.stop) for shard in plan.shards[:2]] == [(0, 20), (20, 33)]


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


def test_the_seed_changes_images_and_draws(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=4, start=0, stop=33)
    first, second = (run_shard(spec(seed=seed), shard, classifier=classifier, dataset=dataset) for seed in (0, 1))
    assert sorted(row.index for row in first.rows) == sorted(row.index for row in second.rows)
    by_index = {row.index: row.confidence for row in second.rows}
    assert any(row.confidence != by_index[row.index] for row in first.rows)


def test_the_worst_case_names_the_attack_that_flipped_and_skips_what_is_flipped(catalog: Catalog) -> None:
    classifier, dataset = catalog.load_model("tiny"), catalog.open_dataset("shapes")
    shard = Shard(model="tiny", condition=3, start=0, stop=33)
    result = run_shard(spec(), shard, classifier=classifier, dataset=dataset)
    flipped = {row.flipped_by for row in result.rows}
    assert flipped <= {None, "noise", "fgsm", "pgd"}
    assert len(flipped) > 1
    for row in result.rows:
        if row.flipped_by:
            assert row.clean_prediction == row.label != row.prediction
        assert row.distance is not None
        assert row.distance <= 1.5 + 1e-6
    alone = run_shard(
        spec(conditions=[CONDITIONS[3] | {"attacks": [{"name": "noise"}]}]),
        shard.model_copy(update={"condition": 0}),
        classifier=classifier,
        dataset=dataset,
    )
    assert sum(row.flipped_by is not None for row in result.rows) >= sum(
        row.flipped_by is not None for row in alone.rows
    )


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
    with pytest.raises(DatasetError, match=r"the classes of shapes.zip are not those of other, .* model's: stripes"):
        make_plan(spec(models=["other"]), Catalog((tmp_path,), catalog.dataset_folders))


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
            report = evaluate(spec(conditions=[c.model_dump() for c in preset(name)], images=2), catalog=catalog)
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
    threat, draws = attacks.ThreatModel("Linf", 8 / 255), attacks.Draws.of(0, range(len(images)))
    task = attacks.Task(classifier, images, labels, threat, draws)
    adversarial = attacks.create("pgd", steps=10).perturb(task).images
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


def test_the_images_that_are_done_are_reported_after_each_batch_and_shard(
    monkeypatch: pytest.MonkeyPatch, catalog: Catalog
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 20)
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 8 * 32 * 32)
    seen: list[tuple[int, int]] = []
    chosen = spec(conditions=CONDITIONS[:2])
    evaluate(chosen, catalog=catalog, device="cpu", on_progress=lambda done, total: seen.append((done, total)))
    of_one = [8, 16, 20, 28, 33]  # shards of 20 and 13 images
    assert seen == [(done, 66) for done in (*of_one, *(33 + done for done in of_one))]


def test_a_shard_that_goes_on_reports_what_is_left_to_run(monkeypatch: pytest.MonkeyPatch, catalog: Catalog) -> None:
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 8 * 32 * 32)
    chosen = spec(conditions=CONDITIONS[:1])
    roles = catalog.load_folded("tiny", "cpu", "float32")._asdict()
    dataset = catalog.open_dataset("shapes")
    small, large = (Shard(model="tiny", condition=0, start=0, stop=stop) for stop in (20, 33))
    known = run_shard(chosen, small, dataset=dataset, **roles)
    seen: list[tuple[int, int]] = []
    run_shard(chosen, large, dataset=dataset, known=known, on_progress=lambda *each: seen.append(each), **roles)
    assert seen == [(8, 13)], "the last batch is reported by the result"


def test_a_batch_that_takes_long_reports_its_share_of_passes(monkeypatch: pytest.MonkeyPatch, catalog: Catalog) -> None:
    monkeypatch.setattr(evaluation.compute.progress, "REPORT_S", 0.0)
    attack = {"name": "pgd", "parameters": {"steps": 100}}
    weak = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 1e-6}, "attacks": [attack]}
    roles = catalog.load_folded("tiny", "cpu", "float32")._asdict()
    one = Shard(model="tiny", condition=0, start=4, stop=5)
    seen: list[tuple[float, int]] = []
    dataset = catalog.open_dataset("shapes")
    run_shard(spec(conditions=[weak]), one, dataset=dataset, on_progress=lambda *each: seen.append(each), **roles)
    done = [images for images, total in seen if total == 1]
    assert len(done) == len(seen) > 100
    assert done == sorted(done)
    assert done[50] == pytest.approx(0.5, abs=0.02)
    assert done[-1] == 0.99
    assert not roles["classifier"]._forward_pre_hooks
