"""Whether a claim about a score holds, and under which protocol."""

from collections.abc import Iterable

from evaluation.claims import ClaimVerdict, bounds
from evaluation.plan import Plan
from evaluation.presets import standard_attacks
from evaluation.reports.report import ModelReport
from evaluation.spec import AdversarialCondition


def with_verdict(plan: Plan, model: ModelReport) -> ModelReport:
    """Answer the claim of an evaluation for one of its models; nothing changes without a claim or a score."""
    claim, found = plan.spec.claim, model.conditions[0]
    score = found.passes.in_most if found.passes else found.score
    if claim is None or score is None:
        return model
    right = int(score.count)
    low, high = bounds(right, score.n, plan.population, claim.confidence)
    verdict = ClaimVerdict(
        claim=claim,
        answer=claim.answer(right, score.n, plan.population),
        n=score.n,
        right=right,
        population=plan.population,
        low=low,
        high=high,
        differences=tuple(_differences(plan, model, score.n)),
    )
    return model.model_copy(update={"claim": verdict})


def _differences(plan: Plan, model: ModelReport, n: int) -> Iterable[str]:
    """Compare with the protocol of RobustBench (Croce et al. 2021, arXiv:2010.09670), which most claims follow."""
    spec, match = plan.spec, plan.matches[model.model]
    if passes := model.conditions[0].passes:
        yield f"the model is randomised: an image counts as right if most of {passes.judged_passes} passes are"
    if isinstance(condition := spec.conditions[0], AdversarialCondition):
        yield from _of_attacks(condition)
    if n < plan.population:
        yield f"{n:,} of {plan.population:,} images were looked at, drawn at random (selection seed {spec.selection_seed})"
    if plan.skipped:
        yield f"{len(plan.skipped)} broken pictures are left out"
    if spec.logits == "dataset" and len(match.columns) < match.model_classes:
        yield f"the model chooses among {len(match.columns)} of its {match.model_classes} classes only"
    if spec.precision != "float32":
        yield f"attacks looked in {spec.precision}; what they found was judged in float32"
    if model.grade not in {"reliable", "unchecked"}:
        reasons = "; ".join(check.message for check in model.failed[:2])
        yield f"the number is graded {model.grade}: {reasons}"


def _of_attacks(condition: AdversarialCondition) -> Iterable[str]:
    standard = standard_attacks()
    if not {choice.name for choice in standard} <= {choice.name for choice in condition.attacks}:
        ours = ", ".join(choice.title for choice in condition.attacks)
        usual = ", ".join(choice.title for choice in standard)
        yield f"attacked by {ours} alone, not by all of AutoAttack's standard version ({usual}), which may find more"
    if condition.targets is not None:
        yield f"the attacks aim for a class ({condition.targets.replace('_', ' ')})"
