"""A randomised checkpoint, evaluated: the same rows however the work is cut, and a report that says what was done."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import evaluation.plan
from attacks import Captured
from common import file_sha256
from evaluation import (
    Catalog,
    EvaluationSpec,
    Report,
    ResultFolder,
    ShardResult,
    estimate,
    evaluate,
    image_rows,
    make_plan,
    run_shard,
)
from evaluation.reports.formats.methods import methods
from evaluation.results.tally import Tally
from models import ModelCard
from tests.conftest import CLASSES, without_times
from tests.evaluation.specs import CONDITIONS, CURVE, spec


class Noisy(nn.Module):
    """A classifier that receives its images with noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.6 * torch.randn_like(images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained_network: nn.Module) -> Path:
    """Two cards of one noisy graph: `noisy` says that it is randomised."""
    folder = tmp_path_factory.mktemp("noisy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(trained_network, torch.zeros(2, 3, 32, 32))
        torch.jit.save(torch.jit.script(Noisy(traced).eval()), folder / "noisy.pt")
    facts = {
        "architecture": "torchscript",
        "classes": CLASSES,
        "preprocessing": {"resize": 32, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
        "sha256": file_sha256(folder / "noisy.pt"),
        "randomised": True,
    }
    (folder / "noisy.json").write_text(ModelCard.model_validate(facts).model_dump_json())
    return folder


@pytest.fixture(scope="module")
def noisy(folder: Path, catalog: Catalog) -> Catalog:
    return Catalog((folder, *catalog.model_folders), catalog.dataset_folders)


def noisy_spec(**changes: object) -> EvaluationSpec:
    return spec(**{"models": ["noisy"], "images": 9, "eot_passes": 3, "judged_passes": 6, **changes})


@pytest.fixture(scope="module")
def whole(noisy: Catalog) -> Report:
    return evaluate(noisy_spec(conditions=[*CONDITIONS, CURVE]), catalog=noisy, device="cpu")


def test_the_report_counts_passes_and_says_what_was_done(whole: Report) -> None:
    (model,) = whole.models
    clean, _, attacked, *_ = model.conditions
    for condition in (clean, attacked):
        assert condition.score is not None
        assert condition.passes is not None
        assert condition.passes.in_all is not None
        assert condition.passes.in_most is not None
        assert condition.passes.in_all.count <= condition.score.count <= 9
        assert condition.passes.in_all.count <= condition.passes.in_most.count
    assert clean.score is not None
    assert attacked.robust_accuracy is not None
    assert attacked.robust_accuracy.value < clean.score.value
    facts = "\n".join(whole.facts())
    assert (
        "noisy is randomised: attacks saw the mean of 3 passes (EOT), each image was judged by 6 other passes" in facts
    )
    assert "Passes of noisy are random" in methods(whole)


def test_a_model_that_is_averaged_is_not_suspicious_for_being_random(whole: Report, noisy: Catalog) -> None:
    (model,) = whole.models
    (check,) = (each for each in model.checks if each.name == "attacks on a randomised model average")
    assert not check.failed
    assert check.message.startswith("treated as randomised, because its card says so")
    assert not any(
        each.failed for each in model.checks if each.name in {"two passes agree", "an image alone gives the same"}
    )
    condition = [CONDITIONS[0]]
    (single,) = evaluate(noisy_spec(conditions=condition, eot_passes=1), catalog=noisy, device="cpu").models
    assert "suspicious" in {each.means for each in single.failed}
    (untreated,) = evaluate(noisy_spec(conditions=condition, randomised=False), catalog=noisy, device="cpu").models
    assert "two passes agree" in {each.name for each in untreated.failed}
    assert untreated.conditions[0].passes is None


def test_shards_and_interruptions_change_nothing(
    noisy: Catalog, whole: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 5)
    results = ResultFolder(tmp_path)
    asked = noisy_spec(conditions=[*CONDITIONS, CURVE])

    class InterruptedHereError(Exception):
        pass

    def interrupt(result: ShardResult, done: int, total: int) -> None:
        if done == 4:
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        evaluate(asked, catalog=noisy, device="cpu", results=results, on_shard=interrupt)
    torch.manual_seed(5)
    again = evaluate(asked, catalog=noisy, device="cpu", results=results)
    assert without_times(again) == without_times(whole)


def test_a_longer_cascade_begins_anew(noisy: Catalog, tmp_path: Path) -> None:
    def cascade(restarts: int) -> EvaluationSpec:
        attack = {"name": "pgd", "parameters": {"steps": 2}, "restarts": restarts}
        threat = {"norm": "Linf", "eps": "8/255"}
        condition = {"kind": "adversarial", "threat": threat, "attacks": [attack]}
        return noisy_spec(conditions=[condition], images=4, eot_passes=1, judged_passes=3)

    results = ResultFolder(tmp_path)
    evaluate(cascade(1), catalog=noisy, device="cpu", results=results)
    resumed = evaluate(cascade(2), catalog=noisy, device="cpu", results=results)
    assert without_times(resumed) == without_times(evaluate(cascade(2), catalog=noisy, device="cpu"))


def test_a_model_whose_passes_differ_is_found(noisy: Catalog, catalog: Catalog) -> None:
    assert noisy.load_folded("noisy", "cpu", "float32").randomised
    assert not catalog.load_folded("tiny", "cpu", "float32").randomised
    plan = make_plan(noisy_spec(models=["tiny"]), catalog)
    roles = catalog.load_folded("tiny", "cpu", "float32")._asdict()
    shard, dataset = plan.shards[0], catalog.open_dataset("shapes")
    found = run_shard(plan.spec, shard, dataset=dataset, **roles | {"randomised": True})
    assert all(row.passes == 6 and row.clean_correct in {0, 6} for row in found.rows)
    assert any("two passes of the same image differ" in check.message for check in found.preflight)


def test_captured_copies_are_not_used(noisy: Catalog) -> None:
    plan = make_plan(noisy_spec(conditions=[CONDITIONS[2]], images=3), noisy)
    roles, dataset = noisy.load_folded("noisy", "cpu", "float32"), noisy.open_dataset("shapes")

    def record(run: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
        raise AssertionError("a graph would replay the random numbers of its capture")

    given = roles._asdict() | {"searched": Captured(roles.classifier, record, batch=8)}
    (shard,) = plan.shards
    found = run_shard(plan.spec, shard, dataset=dataset, **given)
    assert found.rows == run_shard(plan.spec, shard, dataset=dataset, **roles._asdict()).rows


def test_an_attack_that_says_little_is_named(noisy: Catalog) -> None:
    attack = {"name": "fab", "parameters": {"steps": 1, "targets_tried": 1}}
    threat = {"norm": "Linf", "eps": "8/255"}
    asked = noisy_spec(conditions=[{"kind": "adversarial", "threat": threat, "attacks": [attack]}], images=3)
    (warning,) = (each for each in evaluate(asked, catalog=noisy, device="cpu").warnings if "FAB-T-1 stops" in each)
    assert warning.startswith("noisy, FAB-T-1 Linf 8/255: ")


def test_rows_of_other_models_are_what_they_were(noisy: Catalog) -> None:
    plan = make_plan(noisy_spec(models=["tiny", "noisy"], conditions=CONDITIONS[:1]), noisy)
    dataset = noisy.open_dataset("shapes")
    results = [
        run_shard(plan.spec, shard, dataset=dataset, **noisy.load_folded(shard.model, "cpu", "float32")._asdict())
        for shard in plan.shards
    ]
    plain, random = (json.loads(result.model_dump_json())["rows"][0] for result in results)
    assert set(random) - set(plain) == {"passes", "clean_correct", "correct"}
    assert ShardResult.model_validate_json(results[1].model_dump_json()) == results[1]
    assert {tuple(row) for row in image_rows(plan, results)} == {("model", "condition", "file", *random)}
    assert Tally.of(plan, results[0]).passes == {}


def test_what_is_not_asked_leaves_specification_and_address_as_they_were(catalog: Catalog) -> None:
    plain, asked = (make_plan(spec(**changes), catalog) for changes in ({}, {"judged_passes": 11}))
    assert not {"randomised", "eot_passes", "judged_passes"} & set(json.loads(plain.spec.model_dump_json()))
    assert plain.id != asked.id
    assert plain.address(plain.shards[0]) != asked.address(asked.shards[0])


def test_the_cost_counts_the_passes(noisy: Catalog) -> None:
    plan = make_plan(noisy_spec(conditions=[CONDITIONS[0], CONDITIONS[2]]), noisy)
    assert plan.randomised == ("noisy",)
    clean, attacked = 6, 6 + 3 * 3 * 3 + 6 + 2 * 6
    assert plan.passes == 9 * (clean + attacked)
    assert estimate(plan, noisy, "cpu").passes == plan.passes
    (model,) = evaluate(plan.spec, catalog=noisy, device="cpu").models
    clean_passes, attack_passes = (each.images_forwarded for each in model.conditions)
    assert clean_passes == 9 * clean
    assert attack_passes <= 9 * attacked


def test_a_graph_that_is_random_without_saying_so_is_refused(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "noisy.json").read_text())
    (tmp_path / "silent.json").write_text(json.dumps(facts | {"randomised": False}))
    (tmp_path / "silent.pt").hardlink_to(folder / "noisy.pt")
    with pytest.raises(ValueError, match="give its card randomised = true"):
        Catalog((tmp_path,)).load_model("silent")
