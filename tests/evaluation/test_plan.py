"""How work is cut into shards."""

from itertools import pairwise

import pytest

import evaluation.plan
from evaluation import Catalog, EvaluationSpec, Plan, make_plan, preset

CLEAN = {"kind": "clean"}


def pgd(steps: int, restarts: int = 1) -> dict[str, object]:
    attack = {"name": "pgd", "parameters": {"steps": steps}, "restarts": restarts}
    return {"kind": "adversarial", "threat": {"norm": "Linf", "eps": "8/255"}, "attacks": [attack]}


def planned(catalog: Catalog, *conditions: object, device: str = "cpu", images: int | None = None) -> Plan:
    spec = {"models": ["tiny", "twin"], "dataset": "shapes", "conditions": conditions}
    plan = make_plan(EvaluationSpec.model_validate(spec), catalog, device=device)
    return plan if images is None else plan.model_copy(update={"images": images})


def sizes(plan: Plan, condition: int) -> list[int]:
    return [each.images for each in plan.shards_of("tiny", condition)]


def test_costly_conditions_have_shards_of_as_many_images_as_their_passes_allow(catalog: Catalog) -> None:
    plan = planned(catalog, CLEAN, pgd(20), pgd(5_000), pgd(10_000, restarts=1_000), images=250)
    assert [plan.spec.passes(each) for each in plan.spec.conditions] == [1, 62, 15_002, 30_001_001]
    assert sizes(plan, 0) == sizes(plan, 1) == [100, 100, 50]
    assert sizes(plan, 2) == [19] * 13 + [3]
    assert sizes(plan, 3) == [1] * 250
    for shard in plan.shards:
        passes = shard.images * plan.spec.passes(plan.spec.conditions[shard.condition])
        assert shard.images == 1 or passes <= evaluation.plan.SHARD_PASSES


def test_autoattack_has_shards_that_its_checks_fill(catalog: Catalog) -> None:
    plan = planned(catalog, *preset("standard"), images=300)
    assert sizes(plan, len(plan.spec.conditions) - 1) == [25] * 12
    on_gpu = planned(catalog, *preset("standard"), images=300, device="cuda")
    assert sizes(on_gpu, len(plan.spec.conditions) - 1) == [300]


def test_shards_of_all_sizes_follow_each_other_and_belong_to_their_plan(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 10)
    monkeypatch.setattr(evaluation.plan, "SHARD_PASSES", 500)
    plan = planned(catalog, CLEAN, pgd(20), pgd(100), pgd(1))
    assert [len(sizes(plan, condition)) for condition in range(4)] == [4, 5, 33, 4]
    mine = [each for each in plan.shards if each.model == "tiny"]
    for steps in (1, 3, 40):
        assert [plan.following(each, steps) for each in mine] == [*mine[steps:], *[None] * steps]
    assert all(map(plan.has, plan.shards))
    assert not plan.has(mine[4].model_copy(update={"stop": mine[4].stop + 1}))
    assert not plan.has(mine[4].model_copy(update={"start": 1}))
    assert not plan.has(mine[0].model_copy(update={"condition": 4}))
    ends = [(left.stop, right.start) for left, right in pairwise(plan.shards_of("tiny", 1))]
    assert all(stop == start for stop, start in ends)


def test_a_plan_of_before_shards_were_cut_by_cost_keeps_its_cuts(catalog: Catalog) -> None:
    plan = planned(catalog, pgd(5_000), images=250)
    before = Plan.model_validate_json(plan.model_dump_json(exclude={"costly_images"}))
    assert sizes(before, 0) == [100, 100, 50]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
