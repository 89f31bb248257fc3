import pytest
from pydantic import ValidationError

from attacks import Norm, ThreatModel
from evaluation import AdversarialCondition, EvaluationSpec, make_plan, preset, preset_names
from evaluation.catalog import Catalog

PGD = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": "8/255"}, "attacks": [{"name": "pgd"}]}


def spec(**changes: object) -> EvaluationSpec:
    return EvaluationSpec.model_validate({"models": ["tiny"], "dataset": "shapes", **changes})


def test_defaults_left_out_and_written_out_are_the_same_question(catalog: Catalog) -> None:
    attack = {"name": "pgd", "parameters": {"steps": 20, "step_size": None, "random_start": True}, "restarts": 1}
    written = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 8 / 255}, "attacks": [attack], "targets": None}
    short, long = spec(conditions=[PGD]), spec(conditions=[written], seed=0, precision="float32", images=None)
    assert short == long
    assert make_plan(short, catalog).id == make_plan(long, catalog).id


def test_another_seed_model_or_condition_is_another_question(catalog: Catalog) -> None:
    specs = [spec(), spec(seed=1), spec(images=5), spec(models=["twin"]), spec(conditions=[PGD])]
    assert len({make_plan(each, catalog).id for each in specs}) == len(specs)


def test_restarts_are_no_parameter_but_where_an_attack_has_one_of_its_own() -> None:
    with pytest.raises(ValueError, match="unknown parameter of pgd 'restarts'"):
        spec(conditions=[PGD | {"attacks": [{"name": "pgd", "parameters": {"steps": 5, "restarts": 3}}]}])
    own = {"name": "torchattacks:Pixle", "parameters": {"restarts": 7}}
    (condition,) = spec(conditions=[PGD | {"threat": {"norm": "L0", "eps": 5}, "attacks": [own]}]).conditions
    assert isinstance(condition, AdversarialCondition)
    assert (condition.attacks[0].parameters["restarts"], condition.attacks[0].restarts) == (7, 1)


def test_json_round_trip() -> None:
    for name in preset_names():
        original = spec(conditions=[condition.model_dump() for condition in preset(name)])
        assert EvaluationSpec.model_validate_json(original.model_dump_json()) == original


def test_a_preset_attacks_within_another_budget() -> None:
    threat = ThreatModel(Norm.L2, 0.5)
    own, asked = preset("standard"), preset("standard", threat)
    assert asked[0] == own[0]
    assert isinstance(own[1], AdversarialCondition)
    assert isinstance(asked[1], AdversarialCondition)
    assert (asked[1].threat, asked[1].attacks) == (threat, own[1].attacks)
    targeted = preset("san-pgd", threat)
    assert [each.title for each in targeted] == ["clean", "PGD-2 L2 0.5 to random", "PGD-4 L2 0.5 to random"]
    assert spec(conditions=asked) != spec(conditions=own)


@pytest.mark.parametrize("name", ["rotation-flip", "curve", "demo"])
def test_a_budget_is_refused_where_it_means_nothing(name: str) -> None:
    message = f"preset {name} does not attack within one budget, .* san-pgd, pgd-20, pgd-100, standard, steps"
    with pytest.raises(ValueError, match=message):
        preset(name, ThreatModel(Norm.LINF, 0.1))


def test_a_norm_that_the_attacks_do_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="PGD-20 does not support L0"):
        preset("pgd-20", ThreatModel(Norm.L0, 5))


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"modells": ["a"]}, "modells", "Extra inputs"),
        ({"models": []}, "models", "at least 1"),
        ({"models": ["tiny", "tiny"]}, "models", "named twice: tiny"),
        ({"models": ["../etc/passwd"]}, "models", "should match pattern"),
        ({"dataset": "a/b"}, "dataset", "should match pattern"),
        ({"images": 0}, "images", "greater than or equal to 1"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"precision": "float8"}, "precision", "'float32'"),
        ({"conditions": []}, "conditions", "at least 1"),
        ({"conditions": [{"kind": "clean"}, {"kind": "clean"}]}, "conditions", "named twice: clean"),
        ({"conditions": [{"kind": "magic"}]}, "conditions", "'clean', 'transform', 'grid', 'adversarial', 'curve'"),
        ({"conditions": [PGD | {"attacks": [{"name": "pdg"}]}]}, "conditions", "Did you mean 'pgd'"),
        ({"conditions": [PGD | {"attacks": []}]}, "conditions", "at least 1"),
        ({"conditions": [PGD | {"threat": {"norm": "Linf", "eps": -1}}]}, "conditions", "greater than or equal to 0"),
        ({"conditions": [PGD | {"threat": {"norm": "Linf", "eps": "8/0"}}]}, "conditions", "such as 8/255, got '8/0'"),
        ({"conditions": [PGD | {"threat": {"norm": "L7", "eps": 1}}]}, "conditions", "'Linf', 'L2', 'L1' or 'L0'"),
        (
            {"conditions": [PGD | {"attacks": [{"name": "pgd", "parameters": {"stps": 1}}]}]},
            "conditions",
            "Did you mean 'steps'",
        ),
        (
            {"conditions": [PGD | {"attacks": [{"name": "pgd", "parameters": {"steps": 0}}]}]},
            "conditions",
            "steps: Input should be greater than or equal to 1, got 0",
        ),
        ({"conditions": [PGD | {"attacks": [{"name": "pgd", "parameters": 5}]}]}, "conditions", "valid dictionary"),
        ({"conditions": [PGD | {"attacks": [{"name": ["pgd"]}]}]}, "conditions", "valid string"),
        ({"conditions": [PGD | {"attacks": ["pgd"]}]}, "conditions", "valid dictionary"),
        (
            {"conditions": [PGD | {"attacks": [{"name": "pgd", "restarts": 2, "parameters": {"restarts": 3}}]}]},
            "conditions",
            "unknown parameter of pgd 'restarts'",
        ),
        ({"conditions": [PGD | {"attacks": [{"name": "pgd", "restarts": True}]}]}, "conditions", "valid integer"),
        (
            {"conditions": [PGD | {"attacks": [{"name": "pgd"}, {"name": "fgsm"}, {"name": "pgd", "restarts": 2}]}]},
            "conditions",
            "PGD-20 is listed twice: give it restarts instead",
        ),
        (
            {"conditions": [PGD | {"threat": {"norm": "L2", "eps": 1e308}}]},
            "conditions",
            "less than or equal to 1000000000",
        ),
        (
            {"conditions": [PGD | {"attacks": [{"name": "pgd", "restarts": 0}]}]},
            "conditions",
            "greater than or equal to 1",
        ),
        (
            {"conditions": [PGD | {"attacks": [{"name": "fgsm", "parameters": {"restarts": 2}}]}]},
            "conditions",
            "unknown parameter of fgsm 'restarts'",
        ),
        (
            {"conditions": [PGD | {"attacks": [{"name": "noise"}], "targets": "random"}]},
            "conditions",
            "noise has no targeted form",
        ),
        ({"conditions": [{"kind": "transform", "name": "rotation"}]}, "conditions", "degrees: Field required"),
    ],
)
def test_bad_specifications_name_the_field(changes: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    assert any(error["loc"][0] == field and message in error["msg"] for error in caught.value.errors()), caught.value


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_the_cost_of_a_condition() -> None:
    restarted = PGD | {
        "attacks": [{"name": "pgd", "parameters": {"steps": 5}, "restarts": 3}, {"name": "fgsm"}, {"name": "noise"}]
    }
    rotation = {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}}
    conditions = spec(conditions=[{"kind": "clean"}, rotation, PGD, restarted]).conditions
    # Each step is a forward and a gradient, 3; the harness looks once before all attacks, and after each run.
    assert [condition.passes for condition in conditions] == [1, 2, 1 + 60 + 1, 1 + 3 * (15 + 1) + (3 + 1) + (0 + 1)]
