"""Attacks and transforms: a model and images in, changed images out.

    import attacks

    attack = attacks.create("pgd", steps=10)
    draws = attacks.Draws.of(0, range(len(images)))
    adversarial = attack.perturb(model, images, labels, threat=attacks.ThreatModel("Linf", 8 / 255), draws=draws)
    turned = attacks.create_transform("rotation", degrees=90).apply(images, draws)

An attack only proposes images; `run_attack` measures their distance and success. Every module of this package without a leading
underscore holds attacks or transforms; importing the package registers them.
"""

import importlib
import pkgutil

from attacks._gradient import Captured, classify, compiled
from attacks._random import Draws
from attacks._registry import (
    Description,
    ParameterError,
    attack_names,
    create,
    create_transform,
    describe,
    parameters,
    register_attack,
    register_transform,
    transform_names,
)
from attacks._run import AttackError, AttackRun, run_attack
from attacks._targets import TargetRule, choose_targets, log_odds_against, predictions
from attacks._types import Attack, ClassDependent, Norm, PixelScale, Stepwise, ThreatModel, Transform, format_eps

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Attack",
    "AttackError",
    "AttackRun",
    "Captured",
    "ClassDependent",
    "Description",
    "Draws",
    "Norm",
    "ParameterError",
    "PixelScale",
    "Stepwise",
    "TargetRule",
    "ThreatModel",
    "Transform",
    "attack_names",
    "choose_targets",
    "classify",
    "compiled",
    "create",
    "create_transform",
    "describe",
    "format_eps",
    "log_odds_against",
    "parameters",
    "predictions",
    "register_attack",
    "register_transform",
    "run_attack",
    "transform_names",
]
