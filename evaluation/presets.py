"""Protocols with a name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attacks import Norm, TargetRule, ThreatModel
from attacks.transforms.corruptions import CORRUPTIONS
from attacks.transforms.spatial import spatial_grid
from common import Registry
from evaluation.choices import AttackChoice
from evaluation.spec import (
    AdversarialCondition,
    Attacking,
    CleanCondition,
    Condition,
    CurveCondition,
    GridCondition,
    TransformCondition,
)

_PRESETS = Registry["Preset"]("preset")


def pgd_conditions(
    eps: Sequence[float],
    *,
    norm: Norm = Norm.LINF,
    steps: int = 20,
    restarts: int = 1,
    targets: TargetRule | None = None,
    **parameters: object,
) -> tuple[Condition, ...]:
    """Clean, then PGD at every eps.

    Args:
        eps: radii on the [0, 1] pixel scale.
        norm: of the ball.
        steps: gradient steps.
        restarts: independent runs.
        targets: aim for a class instead of away from the label.
        parameters: further ones of the attack `pgd`.
    """
    attack = AttackChoice(name="pgd", parameters={"steps": steps, **parameters}, restarts=restarts)
    balls = (ThreatModel(norm, each) for each in eps)
    return (
        CleanCondition(),
        *(AdversarialCondition(threat=ball, attacks=(attack,), targets=targets) for ball in balls),
    )


@dataclass(frozen=True)
class Preset:
    """A protocol with a name.

    Attributes:
        name: as it is asked for.
        explanation: what it does, in a sentence or two that can be quoted.
        source: the paper or page it follows.
        conditions: what it consists of.
    """

    name: str
    explanation: str
    source: str
    conditions: tuple[Condition, ...]

    @property
    def has_one_budget(self) -> bool:
        """Whether all its attacks keep to one norm and radius, so that others can be asked for."""
        attacking = [each for each in self.conditions if isinstance(each, Attacking)]
        budgets = {each.threat for each in attacking if isinstance(each, AdversarialCondition)}
        return len(budgets) == 1 and not any(isinstance(each, CurveCondition) for each in attacking)


def preset(name: str, threat: ThreatModel | None = None) -> tuple[Condition, ...]:
    """Look up the conditions of a named protocol.

    Args:
        name: of the preset.
        threat: attack within this budget instead of the preset's own.

    Raises:
        UnknownNameError: there is no such preset.
        ValueError: the preset does not attack within one budget, or its attacks do not support the norm.
    """
    found = _PRESETS[name]
    if threat is None:
        return found.conditions
    if not found.has_one_budget:
        fitting = ", ".join(each.name for each in list_presets() if each.has_one_budget)
        raise ValueError(f"preset {name} does not attack within one budget, so none can be given; these do: {fitting}")
    return tuple(_within(threat, each) if isinstance(each, AdversarialCondition) else each for each in found.conditions)


def conditions_of(names: Iterable[str], threat: ThreatModel | None = None) -> tuple[Condition, ...]:
    """List the conditions of several presets, each once; those of presets that attack do so within the threat, if one is given.

    Raises:
        UnknownNameError: there is no such preset.
        ValueError: as `preset` does, or a threat is given and nothing attacks.
    """
    found: dict[str, Condition] = {}
    for name in names:
        attacking = any(isinstance(each, Attacking) for each in preset(name))
        found |= {each.title: each for each in preset(name, threat if attacking else None)}
    if threat is not None and not any(isinstance(each, Attacking) for each in found.values()):
        raise ValueError("an eps needs a preset that attacks, such as pgd-20 or standard")
    return tuple(found.values())


def _within(threat: ThreatModel, condition: AdversarialCondition) -> AdversarialCondition:
    return AdversarialCondition(threat=threat, attacks=condition.attacks, targets=condition.targets)


def list_presets() -> list[Preset]:
    """List all protocols."""
    return [_PRESETS[name] for name in _PRESETS.names()]


def preset_names() -> list[str]:
    """List the names of all presets."""
    return _PRESETS.names()


def _add(name: str, source: str, explanation: str, conditions: tuple[Condition, ...]) -> None:
    _PRESETS.add(name, Preset(name, explanation, source, conditions))


def _rotations(degrees: Iterable[float]) -> tuple[Condition, ...]:
    return tuple(TransformCondition(name="rotation", parameters={"degrees": each}) for each in degrees)


def _choice(name: str, **parameters: object) -> AttackChoice:
    return AttackChoice(name=name, parameters=parameters)


def standard_attacks() -> tuple[AttackChoice, ...]:
    """The four attacks of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690), in its order."""
    return (
        _choice("apgd", loss="ce"),
        _choice("apgd", loss="targeted_dlr"),
        _choice("fab"),
        _choice("square"),
    )


_EIGHT = 8 / 255
_CURVE = tuple(each / 255 for each in (0.5, 1, 2, 4, 8, 16))
_ROTATION_FLIP: tuple[Condition, ...] = (
    CleanCondition(),
    *_rotations((90, 180, 270)),
    *(
        TransformCondition(name="flip", parameters={"direction": direction})
        for direction in ("upside_down", "left_right")
    ),
)

_add(
    "rotation-flip",
    "Zhao, Jia, Koltun 2020, arXiv:2004.13621, Sec. 5.4",
    "Clean accuracy, and accuracy without retraining on images turned clockwise by 90, 180 and 270 degrees, upside-down and "
    "left-right: exact permutations of the pixels that the model sees.",
    _ROTATION_FLIP,
)
_add(
    "san-pgd",
    "Zhao, Jia, Koltun 2020, arXiv:2004.13621, Sec. 5.4",
    "Targeted Linf PGD at 8/255 with 2 and with 4 steps. The paper does not publish step size, target rule and start; here they "
    "are 2.5 * eps / steps, a random class other than the label, and a random start.",
    (*pgd_conditions([_EIGHT], steps=2, targets="random"), *pgd_conditions([_EIGHT], steps=4, targets="random")[1:]),
)
for _steps in (20, 100):
    _add(
        f"pgd-{_steps}",
        "Madry et al. 2018, arXiv:1706.06083",
        f"Untargeted Linf PGD at 8/255, {_steps} steps of 2.5 * eps / steps, random start, one run; any wrong iterate counts.",
        pgd_conditions([_EIGHT], steps=_steps),
    )
_add(
    "standard",
    "Croce, Hein 2020, arXiv:2003.01690",
    "Linf 8/255, worst case per image over APGD on the cross-entropy, APGD on the targeted DLR loss (9 targets), FAB targeted "
    "(9 targets) and Square (5000 queries): AutoAttack's standard version, each attack on what the ones before left standing. "
    "RobustBench asks for Linf 8/255 or L2 0.5 on CIFAR-10, Linf 4/255 on ImageNet.",
    (CleanCondition(), AdversarialCondition(threat=ThreatModel(Norm.LINF, _EIGHT), attacks=standard_attacks())),
)
_add(
    "curve",
    "Carlini et al. 2019, arXiv:1902.06705, Sec. 4.3",
    "Robust accuracy against eps: Linf PGD-40 at 0.5, 1, 2, 4, 8 and 16 of 255, and the radius at which each image falls, "
    "found to a sixteenth of the distance between neighbouring radii.",
    (
        CleanCondition(),
        CurveCondition(norm=Norm.LINF, eps=_CURVE, attacks=(_choice("pgd", steps=40),), refine=4),
    ),
)
_add(
    "steps",
    "Carlini et al. 2019, arXiv:1902.06705, Sec. 4.3",
    "Robust accuracy against the number of PGD steps at Linf 8/255: where it still falls, the attack has not converged.",
    (CleanCondition(), *(pgd_conditions([_EIGHT], steps=steps)[1] for steps in (1, 2, 5, 10, 20, 50, 100))),
)
_add(
    "angles",
    "Engstrom et al. 2019, arXiv:1712.02779",
    "Accuracy against the angle, clockwise from 0 to 345 degrees in steps of 15; bilinear, black outside, multiples of 90 exact.",
    (CleanCondition(), *_rotations(range(15, 360, 15))),
)
_add(
    "spatial",
    "Engstrom et al. 2019, arXiv:1712.02779, Sec. 4",
    "The worst of 775 turned and shifted copies of each image: 31 angles from -30 to 30 degrees, shifts of up to 3 pixels.",
    (CleanCondition(), GridCondition(name="spatial", grid=spatial_grid(32))),
)
_add(
    "corruptions",
    "Hendrycks, Dietterich 2019, arXiv:1903.12261",
    "The 15 common corruptions, each at 5 severities, and the mean corruption error.",
    (
        CleanCondition(),
        *(
            TransformCondition(name="corruption", parameters={"name": name, "severity": severity})
            for name in CORRUPTIONS
            for severity in range(1, 6)
        ),
    ),
)
_add(
    "demo",
    "none: this project's own",
    "Clean, turned, mirrored, and PGD-10 at 4/255 and 8/255: a few seconds on a small model.",
    (*_ROTATION_FLIP, *pgd_conditions([_EIGHT / 2, _EIGHT], steps=10)[1:]),
)
