"""Attacks and transforms: a model and images in, changed images out.

    import attacks

    attack = attacks.create("pgd", steps=10)
    draws = attacks.Draws.of(0, range(len(images)))
    threat = attacks.ThreatModel("Linf", 8 / 255)
    adversarial = attack.perturb(attacks.Task(model, images, labels, threat, draws)).images
    turned = attacks.create_transform("rotation", degrees=90).apply(images, draws)

An attack only proposes images; `run_attack` measures their distance and success. Importing this package registers every module of
`attacks.methods` and `attacks.transforms`.
"""

from attacks import methods, transforms
from attacks.averaged import Averaged, agreeing, mean_prediction, passes
from attacks.draws import Draws
from attacks.gradient import Captured, classify, compiled
from attacks.registry import (
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
from attacks.run import AttackError, AttackRun, Candidate, run_attack, search_averaged
from attacks.targets import TargetRule, choose_targets, log_odds_against, predictions
from attacks.task import (
    Approximate,
    Attack,
    ClassDependent,
    Norm,
    Pairing,
    PixelScale,
    Proposal,
    Task,
    ThreatModel,
    Transform,
    format_eps,
)

__all__ = [
    "Approximate",
    "Attack",
    "AttackError",
    "AttackRun",
    "Averaged",
    "Candidate",
    "Captured",
    "ClassDependent",
    "Description",
    "Draws",
    "Norm",
    "Pairing",
    "ParameterError",
    "PixelScale",
    "Proposal",
    "TargetRule",
    "Task",
    "ThreatModel",
    "Transform",
    "agreeing",
    "attack_names",
    "choose_targets",
    "classify",
    "compiled",
    "create",
    "create_transform",
    "describe",
    "format_eps",
    "log_odds_against",
    "mean_prediction",
    "methods",
    "parameters",
    "passes",
    "predictions",
    "register_attack",
    "register_transform",
    "run_attack",
    "search_averaged",
    "transform_names",
    "transforms",
]
