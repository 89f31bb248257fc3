"""The methods paragraph of a paper."""

from collections.abc import Iterable
from typing import Any

import attacks
from evaluation.choices import AttackChoice
from evaluation.plan import Plan
from evaluation.reports.registry import Format, register_format
from evaluation.reports.report import Report
from evaluation.spec import Attacking, EvaluationSpec


def methods(report: Report) -> str:
    """Write a paper's paragraph on methods: data, protocol, randomness, intervals, versions."""
    plan, spec = report.plan, report.plan.spec
    conditions = "; ".join(_described(condition) for condition in spec.conditions)
    searched = {
        "float32": "",
        "tf32": "Attacks searched with the inputs of products rounded to TF32",
        "bfloat16": "Attacks searched in bfloat16 on copies of the models",
    }[spec.precision]
    judged = ", and once more in float32 where an image still stood; whether it was flipped was decided in float32. "
    precision = searched + judged if searched else ""
    return (
        f"{'PARTIAL RESULT. ' if not report.complete else ''}"
        f"We evaluated {len(spec.models)} model{'s' * (len(spec.models) > 1)} on {_images(plan)} "
        f"under these conditions: {conditions}. {_stopping(spec)}{_skipped(len(plan.skipped))}"
        "Images lie in [0, 1]; eps is on that scale and normalisation is part of the model. "
        "Robust accuracy is the share of all images that are classified correctly and that no attack of the condition flips within "
        f"its budget, measured in the stated norm on float32 images. {precision}{_averaging(report)}Random draws are seeded per "
        "image, so that results do not depend on batches. Intervals are 95 % Wilson score intervals. "
        f"Evaluation {plan.id}, computed with {', '.join(report.made_with) or 'versions unknown'}."
    )


def _images(plan: Plan) -> str:
    spec, most = plan.spec, "" if plan.spec.claim is None else "at most "
    how = f"evenly from its {plan.classes} classes" if spec.claim is None else "at random"
    of = f"images of {spec.dataset} (SHA-256 {plan.dataset_sha256[:12]})"
    return f"{most}{plan.images} {of}, drawn {how} with seed {spec.selection_seed},"


def _stopping(spec: EvaluationSpec) -> str:
    """When conditions ended before all images were looked at."""
    if spec.claim is not None:
        return (
            "The evaluation ended once it was known whether a score on the whole data set is at least "
            f"{100 * spec.claim.least:.4g} %, by bounds that hold at every number of images with a confidence of "
            f"{100 * spec.claim.confidence:g} % (Waudby-Smith and Ramdas 2020, arXiv:2006.04347). "
        )
    if spec.stop_width is not None:
        return f"A condition ended once its interval was at most {100 * spec.stop_width:g} points wide. "
    return ""


def _averaging(report: Report) -> str:
    """How randomised models were evaluated."""
    names = [model.model for model in report.models if any(each.passes for each in model.conditions)]
    if not names:
        return ""
    seen, judged = report.plan.spec.averaging
    return (
        f"Passes of {', '.join(names)} are random. Attacks on such a model followed the mean of {seen} passes (expectation over "
        f"transformation, Athalye et al. 2018), and each image was judged by {judged} further passes, which no attack had seen; "
        "accuracies are means over the images of the share of right passes, and in their intervals the variance between the "
        "images' shares takes the place of the binomial one. "
    )


def _described(condition: Any) -> str:
    if not isinstance(condition, Attacking):
        return condition.title
    settings = ", ".join(f"{choice.name} ({', '.join(_settings(choice))})" for choice in condition.attacks)
    return f"{condition.title}, with {settings}"


def _skipped(pictures: int) -> str:
    if not pictures:
        return ""
    return f"{pictures} broken picture{' was' if pictures == 1 else 's were'} skipped. "


def _settings(choice: AttackChoice) -> Iterable[str]:
    """Every parameter with its value; what is not given, by what its description says it then is."""
    meanings = next(each.parameters for each in attacks.describe() if each.name == choice.name)
    for name, value in choice.parameters.items():
        yield f"{name}={value}" if value is not None else f"{name} not given: {meanings[name]['description']}"
    yield f"restarts={choice.restarts}"


register_format(
    Format(
        name="methods",
        media_type="text/plain",
        suffix=".txt",
        description="a paragraph for a paper that says what was done",
        write=lambda report, rows: methods(report) + "\n",
    )
)
