"""Protocols with a name."""

from collections.abc import Sequence

from attacks import Norm, TargetRule, ThreatModel
from common import Registry
from evaluation.spec import AdversarialCondition, AttackChoice, CleanCondition, Condition, TransformCondition

_PRESETS = Registry[tuple[Condition, ...]]("preset")


def pgd_conditions(
    eps: Sequence[float],
    *,
    norm: Norm = Norm.LINF,
    steps: int = 20,
    targets: TargetRule | None = None,
    **parameters: object,
) -> tuple[Condition, ...]:
    """Clean, then PGD at every eps.

    Args:
        eps: radii on the [0, 1] pixel scale.
        norm: of the ball.
        steps: gradient steps.
        targets: aim for a class instead of away from the label.
        parameters: further ones of the attack `pgd`.
    """
    attack = AttackChoice(name="pgd", parameters={"steps": steps, **parameters})
    balls = (ThreatModel(norm, each) for each in eps)
    return (
        CleanCondition(),
        *(AdversarialCondition(threat=ball, attacks=(attack,), targets=targets) for ball in balls),
    )


def preset(name: str) -> tuple[Condition, ...]:
    """Look up the conditions of a named protocol.

    Raises:
        UnknownNameError: there is no such preset.
    """
    return _PRESETS[name]


def preset_names() -> list[str]:
    """List the names of all presets."""
    return _PRESETS.names()


_EIGHT = 8 / 255
_ROTATION_FLIP: tuple[Condition, ...] = (
    CleanCondition(),
    *(TransformCondition(name="rotation", parameters={"degrees": degrees}) for degrees in (90, 180, 270)),
    *(
        TransformCondition(name="flip", parameters={"direction": direction})
        for direction in ("upside_down", "left_right")
    ),
)

# The SAN paper (arXiv:2004.13621, Sec. 5.4): targeted Linf PGD at 8/255 with 2 and 4 steps. It does not publish step size, target
# rule or start; here they are 2.5 * eps / steps, a random class, and a random start.
_SAN_PGD = (
    *pgd_conditions([_EIGHT], steps=2, targets="random"),
    *pgd_conditions([_EIGHT], steps=4, targets="random")[1:],
)

_PRESETS.add("rotation-flip", _ROTATION_FLIP)
_PRESETS.add("san-pgd", _SAN_PGD)
_PRESETS.add("pgd-20", pgd_conditions([_EIGHT], steps=20))
_PRESETS.add("pgd-100", pgd_conditions([_EIGHT], steps=100))
_PRESETS.add("demo", (*_ROTATION_FLIP, *pgd_conditions([_EIGHT / 2, _EIGHT], steps=10)[1:]))
