"""Threat models, parameters and names, as people write them."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attacks
from attacks import Norm, ThreatModel, choose_targets, format_eps, register_attack, register_transform
from common import UnknownNameError
from tests.attacks.digits import draws, generator


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255", 8 / 255),
        ("0.5/255", 0.5 / 255),
        ("1/3", 1 / 3),
        ("0.03", 0.03),
        ("3e-2", 0.03),
        ("0", 0),
        (0.1, 0.1),
        (1, 1),
    ],
)
def test_eps_is_read(text: object, eps: float) -> None:
    threat = ThreatModel("Linf", text)
    assert threat.norm is Norm.LINF
    assert threat.eps == eps
    assert type(threat.eps) is float


@pytest.mark.parametrize(
    "eps",
    [
        *("8/0", "abc", "", "/", "8/", "/255", "8/255/2", "8 8/255", "True"),
        *("nan", "inf", "-inf", "nan/1", "inf/inf", "-1", "-8/255"),
        *(float("nan"), float("inf"), -1, -1e-9, True, False, None, [8]),
    ],
)
@pytest.mark.parametrize("norm", list(Norm))
def test_what_is_no_length_is_refused(norm: Norm, eps: object) -> None:
    with pytest.raises(ValueError, match="eps"):
        ThreatModel(norm=norm, eps=eps)


def test_a_giant_exponent_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="less than or equal to"):
        ThreatModel("L2", "1e999999999")


def test_a_length_in_8_bit_steps_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\] pixel scale, got 8; write 8/255"):
        ThreatModel("Linf", 8)
    assert ThreatModel("L2", 8).eps == 8  # a distance over all pixels may be larger than 1


@pytest.mark.parametrize("norm", ["linf", "L3", "", 2, None])
def test_an_unknown_norm_is_refused_with_the_known_ones(norm: object) -> None:
    with pytest.raises(ValueError, match="'Linf', 'L2', 'L1' or 'L0'"):
        ThreatModel(norm, 0.1)


def test_a_threat_model_cannot_be_changed_and_equals_its_like() -> None:
    threat = ThreatModel("Linf", "8/255")
    with pytest.raises(dataclasses.FrozenInstanceError):
        threat.eps = 1.0  # pyright: ignore
    assert threat == ThreatModel(Norm.LINF, 8 / 255)
    assert hash(threat) == hash(ThreatModel(Norm.LINF, 8 / 255))
    assert str(threat) == "Linf 8/255"


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (16 / 255, "16/255"),
        (0.1, "0.1"),
        (0.25, "0.25"),
        (1.0, "1"),
        (0, "0"),
    ],
)
def test_eps_is_written(eps: float, text: str) -> None:
    assert format_eps(eps) == text


@settings(deadline=None)
@given(st.integers(0, 510))
def test_half_steps_survive_writing_and_reading(halves: int) -> None:
    eps = halves / 2 / 255
    assert ThreatModel("Linf", format_eps(eps)).eps == eps


def test_an_unknown_attack_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attack 'pdg'\. Did you mean 'pgd'\? Known: .*fgsm.*noise"):
        attacks.create("pdg")
    with pytest.raises(UnknownNameError, match=r"unknown transform 'rotate'\. Did you mean 'rotation'\?"):
        attacks.create_transform("rotate", degrees=90)


def test_attacks_and_transforms_are_different_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown attack 'flip'"):
        attacks.create("flip", direction="left_right")


def test_a_misspelled_parameter_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown parameter of pgd 'setps'\. Did you mean 'steps'\? Known: "):
        attacks.create("pgd", setps=3)


@pytest.mark.parametrize("parameter", ["name", "self", "cls", "norms"])
def test_a_parameter_of_any_name_is_answered(parameter: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown parameter of pgd '{parameter}'"):
        attacks.create("pgd", **{parameter: 3})
    with pytest.raises(UnknownNameError, match=f"unknown parameter of flip '{parameter}'"):
        attacks.create_transform("flip", **{parameter: 3})


@pytest.mark.parametrize(
    "parameters",
    [
        {"steps": 0},
        {"steps": 10_001},
        {"steps": 2.5},
        {"steps": "many"},
        {"step_size": -0.1},
        {"step_size": "2/0"},
        {"step_size": float("nan")},
        {"random_start": "perhaps"},
    ],
    ids=str,
)
def test_a_parameter_out_of_its_range_is_refused_by_name(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        attacks.create("pgd", **parameters)


@pytest.mark.parametrize("parameters", [{}, {"degrees": 361}, {"degrees": "a"}, {"degrees": 9, "fill": 2}], ids=str)
def test_a_transform_checks_its_parameters(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"degrees|fill"):
        attacks.create_transform("rotation", **parameters)


def test_all_parameters_are_read_back_defaults_included() -> None:
    attack = attacks.create("pgd", steps=7, step_size="2/255")
    assert attacks.parameters(attack) == {
        "steps": 7,
        "step_size": 2 / 255,
        "random_start": True,
        "counts": "any_step",
    }


@pytest.mark.parametrize("name", attacks.attack_names())
def test_every_attack_is_made_anew_from_its_parameters(name: str) -> None:
    attack = attacks.create(name)
    assert attacks.create(name, **attacks.parameters(attack)) == attack
    assert attack.norms <= frozenset(Norm)
    assert attack.norms
    assert attack.title
    assert dataclasses.is_dataclass(attack)
    for field in dataclasses.fields(attack):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(attack, field.name, None)


def test_titles_name_the_parameter_that_matters() -> None:
    assert attacks.create("pgd", steps=20).title == "PGD-20"
    assert attacks.create_transform("rotation", degrees=90).title == "rotation 90"
    assert attacks.create_transform("flip", direction="upside_down").title == "flip upside-down"


def test_a_name_is_given_once() -> None:
    before = attacks.attack_names(), attacks.transform_names()
    with pytest.raises(ValueError, match="attack 'pgd' is registered twice"):
        register_attack("pgd")(type("Other", (), {}))
    with pytest.raises(ValueError, match="transform 'flip' is registered twice"):
        register_transform("flip")(type("Other", (), {}))
    assert (attacks.attack_names(), attacks.transform_names()) == before
    assert attacks.create("pgd").title == "PGD-20"


def test_targets_are_never_the_label_and_random_ones_are_all_others() -> None:
    labels = torch.arange(5).repeat(400)
    targets = choose_targets("random", torch.zeros(2000, 5), labels, draws(labels))
    counts = torch.bincount((targets - labels) % 5, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 500).abs().max() < 100  # five standard deviations
    assert targets.dtype == torch.int64


def test_the_least_likely_target_has_the_smallest_logit_that_is_not_the_labels() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [-torch.inf, 5.0, 4.0]])
    targets = choose_targets("least_likely", logits, torch.tensor([0, 0, 0, 0]), draws(logits))
    assert targets.tolist() == [1, 1, 1, 2]


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 2**31), st.sampled_from(["random", "least_likely"]))
def test_no_rule_chooses_the_label(classes: int, count: int, seed: int, rule: attacks.TargetRule) -> None:
    labels = torch.randint(classes, (count,), generator=generator(seed))
    logits = torch.randint(3, (count, classes), generator=generator(seed + 1)).float()  # with ties
    targets = choose_targets(rule, logits, labels, draws(labels, seed))
    assert targets.shape == (count,)
    assert ((targets >= 0) & (targets < classes) & (targets != labels)).all()


def test_one_class_has_no_targets() -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        choose_targets("random", torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), draws(torch.zeros(3)))


def test_every_attack_and_transform_is_described() -> None:
    found = {each.name: each for each in attacks.describe()}
    assert list(found) == [*attacks.attack_names(), *attacks.transform_names()]
    assert all(each.explanation for each in found.values())
    assert (found["pgd"].kind, found["pgd"].norms, found["pgd"].targetable) == ("budget", ("L2", "Linf"), True)
    steps = found["pgd"].parameters["steps"]
    assert (steps["minimum"], steps["default"], steps["description"]) == (1, 20, "gradient steps")
    assert (found["fab"].kind, found["fab"].targetable) == ("minimal", False)
    assert (found["torchattacks:CW"].kind, found["torchattacks:CW"].norms) == ("minimal", ("L2",))
    assert (found["rotation"].kind, found["rotation"].norms) == ("transform", ())
    assert found["rotation"].parameters["degrees"]["maximum"] == 360
