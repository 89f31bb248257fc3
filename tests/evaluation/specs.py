"""Specifications of evaluations of the tiny models."""

from evaluation import (
    EvaluationSpec,
)

CONDITIONS = [
    {"kind": "clean"},
    {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}},
    {
        "kind": "adversarial",
        "threat": {"norm": "Linf", "eps": "16/255"},
        "attacks": [{"name": "pgd", "parameters": {"steps": 3}}],
    },
    {
        "kind": "adversarial",
        "threat": {"norm": "L2", "eps": 1.5},
        "attacks": [{"name": "noise"}, {"name": "fgsm"}, {"name": "pgd", "parameters": {"steps": 3}, "restarts": 2}],
    },
    {
        "kind": "adversarial",
        "threat": {"norm": "Linf", "eps": "16/255"},
        "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
        "targets": "random",
    },
]


def spec(**changes: object) -> EvaluationSpec:
    facts = {"models": ["tiny"], "dataset": "shapes", "conditions": CONDITIONS, **changes}
    return EvaluationSpec.model_validate(facts)


CURVE = {
    "kind": "curve",
    "norm": "Linf",
    "eps": ["4/255", "16/255"],
    "attacks": [{"name": "apgd", "parameters": {"steps": 3}}],
    "refine": 1,
}


CASCADE = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "32/255"},
    "attacks": [
        {"name": "pgd", "parameters": {"steps": 1, "step_size": "4/255"}, "restarts": 3},
        {"name": "pgd", "parameters": {"steps": 2, "step_size": "2/255"}, "restarts": 2},
    ],
}
