"""Masked gradients are found by attacks of another kind, counted, and a sound model raises no alarm."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import evaluation
import models
from evaluation import Catalog, EvaluationSpec, Report
from evaluation.compute.runner import run_shard

PERIOD = 2 / 255
EPS = 0.12
"""Within it PGD flips every image of the bare model."""


class Rippled(nn.Module):
    """A network whose logits ripple by plus or minus 3 with each pixel: its gradient is that of the ripple alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        pattern = torch.randn(3, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
        self.register_buffer("pattern", 3 * pattern / pattern.norm(dim=1, keepdim=True) * math.sqrt(2))

    def forward(self, normalised: Tensor) -> Tensor:
        pixels = (normalised * 0.25 + 0.5).flatten(1)
        return self.network(normalised) + torch.sin(2 * math.pi / PERIOD * pixels) @ cast(Tensor, self.pattern).T


class Quantised(nn.Module):
    """A network that sees eight levels of each pixel, with the gradient of the identity."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> Tensor:
        pixels = normalised * 0.25 + 0.5
        seen = pixels + ((pixels * 7).round() / 7 - pixels).detach()
        return self.network((seen - 0.5) / 0.25)


class Voted(nn.Module):
    """A network that tells its class alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> Tensor:
        return nn.functional.one_hot(self.network(normalised).argmax(1), 3).float()


def spec(**changes: object) -> EvaluationSpec:
    pgd = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": EPS}, "attacks": [{"name": "pgd"}]}
    facts = {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}, pgd], **changes}
    return EvaluationSpec.model_validate(facts)


def reported(
    catalog: Catalog, network: nn.Module | None = None, asked: EvaluationSpec | None = None, **roles: Any
) -> Report:
    """The report on one model, evaluated as it is or with another network in its place."""
    asked = asked or spec()
    loaded = catalog.load_model("tiny")
    classifier = loaded if network is None else models.Classifier(network, loaded.card).eval()
    plan, dataset = evaluation.make_plan(asked, catalog), catalog.open_dataset("shapes")
    results = [run_shard(asked, shard, classifier=classifier, dataset=dataset, **roles) for shard in plan.shards]
    return evaluation.merge(plan, results)


def test_a_ripple_is_found_by_smoothing_and_by_transfer_and_what_falls_counts(catalog: Catalog) -> None:
    bare = catalog.load_model("tiny")
    report = reported(catalog, Rippled(bare.network), sources=lambda: [bare])
    model = report.models[0]
    failed = {check.name: check for check in model.failed}
    assert "smoothed_pgd flips no more than pgd does" in failed
    assert "transfer flips no more than pgd does" in failed
    assert failed["smoothed_pgd flips no more than pgd does"].images
    assert model.grade in {"suspicious", "invalid"}
    robust, clean = model.conditions[1].robust_accuracy, model.conditions[1].clean_accuracy
    assert robust is not None
    assert clean is not None
    assert robust.count <= clean.count - 7


def test_eight_levels_under_a_straight_through_gradient_are_suspicious(catalog: Catalog) -> None:
    pgd = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.02}, "attacks": [{"name": "pgd"}]}
    network = Quantised(catalog.load_model("tiny").network)
    model = reported(catalog, network, spec(conditions=[{"kind": "clean"}, pgd])).models[0]
    assert "small changes reach the logits" in {check.name for check in model.failed}
    assert model.grade == "suspicious"


def test_rows_name_the_check_that_flipped(catalog: Catalog) -> None:
    bare = catalog.load_model("tiny")
    asked = spec()
    classifier = models.Classifier(Rippled(bare.network), bare.card).eval()
    plan = evaluation.make_plan(asked, catalog)
    shard = plan.shards[1]
    result = run_shard(
        asked, shard, classifier=classifier, dataset=catalog.open_dataset("shapes"), sources=lambda: [bare]
    )
    rows = evaluation.image_rows(plan, [result])
    assert {row["flipped_by"] for row in rows} & {"smoothed_pgd", "transfer"}
    assert all(row["prediction"] != row["label"] for row in rows if row["flipped_by"])
    assert all(row.flipped_by in (None, "pgd") for row in result.rows)  # what the attack itself found stays as it was


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [0.02, 0.06])
def test_a_sound_model_raises_no_alarm(catalog: Catalog, seed: int, eps: float) -> None:
    pgd = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": eps}, "attacks": [{"name": "pgd"}]}
    asked = spec(conditions=[{"kind": "clean"}, pgd], seed=seed)
    model = reported(catalog, asked=asked).models[0]
    assert model.failed == ()
    assert (model.grade, model.verdict) == ("reliable", "reliable for PGD")


def looked_at(catalog: Catalog, eps: float, network: nn.Module | None = None) -> dict[str, int]:
    """How many images each countercheck says that it looked at."""
    pgd = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": eps}, "attacks": [{"name": "pgd"}]}
    checks = reported(catalog, network, spec(conditions=[{"kind": "clean"}, pgd])).models[0].checks
    return {each.name.split()[0]: int(each.message.split()[1]) for each in checks if "flips no more" in each.name}


def test_a_countercheck_that_finds_nothing_in_twelve_images_ends_there(catalog: Catalog) -> None:
    assert looked_at(catalog, 0.01) == {"smoothed_pgd": 12, "square": 12}
    assert looked_at(catalog, 0.06, Rippled(catalog.load_model("tiny").network))["smoothed_pgd"] > 12


def test_the_whole_cascade_is_reliable_without_a_restriction(catalog: Catalog) -> None:
    standard = evaluation.preset("standard")
    model = reported(catalog, asked=spec(conditions=[each.model_dump() for each in standard], images=3)).models[0]
    assert model.tried == ()


def test_a_model_without_a_gradient_is_attacked_without_one(catalog: Catalog) -> None:
    network = Voted(catalog.load_model("tiny").network)
    pgd = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": EPS}, "attacks": [{"name": "pgd"}]}
    both = pgd | {"attacks": [{"name": "pgd"}, {"name": "square", "parameters": {"queries": 50}}]}
    asked = spec(conditions=[{"kind": "clean"}, pgd, both])
    report = reported(catalog, network, asked, has_gradient=False)
    _, alone, cascade = report.models[0].conditions
    assert (alone.robust_accuracy, alone.accuracy, alone.score) == (None, None, None)
    assert alone.not_run == ("PGD-20",)
    assert cascade.robust_accuracy is not None
    assert cascade.not_run == ("PGD-20",)
    assert "this model has no gradient: only Square and transforms can be run" in " ".join(report.warnings)
    assert report.models[0].grade == "suspicious"


def test_the_gradient_is_looked_for_when_a_model_is_loaded(catalog: Catalog) -> None:
    assert catalog.load_folded("tiny", "cpu", "float32").has_gradient
    assert not evaluation.compute.preflight.has_gradient(
        Voted(catalog.load_model("tiny").network).eval(), torch.zeros(1, 3, 32, 32)
    )


class Holes(nn.Module):
    """NaN for every third image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> Tensor:
        logits = self.network(normalised)
        return logits.masked_fill((normalised[:, :, 0, 0].sum(1) < -1.5).unsqueeze(1), float("nan"))


def test_an_image_without_finite_logits_is_wrong_listed_and_invalid(catalog: Catalog) -> None:
    model = reported(catalog, Holes(catalog.load_model("tiny").network)).models[0]
    (check, *_) = [each for each in model.failed if each.name == "logits are finite"]
    clean = model.conditions[0].accuracy
    assert clean is not None
    assert 0 < len(check.images) < 33
    assert clean.count <= 33 - len(check.images)
    assert model.grade == "invalid"
