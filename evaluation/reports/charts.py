"""Which conditions of a report make a curve: one number varies, all else is the same."""

from collections.abc import Callable, Iterable

from common.validation import Frozen
from evaluation.reports.report import ModelReport, Report
from evaluation.spec import AdversarialCondition, Condition, CurveCondition, TransformCondition
from evaluation.statistics import Proportion

LEAST_POINTS = 3
"""Points that are worth a chart."""


class Series(Frozen):
    """One model's points (x, accuracy), in the order of x."""

    model: str
    points: tuple[tuple[float, Proportion], ...]


class Chart(Frozen):
    """Accuracy against a number, one series per model."""

    title: str
    x_label: str
    series: tuple[Series, ...]


def charts(report: Report) -> list[Chart]:
    """Find all curves in a report: against eps, steps, the angle of a rotation, the severity of a corruption."""
    conditions = report.plan.spec.conditions
    found = [_of_curve(report, index) for index, each in enumerate(conditions) if isinstance(each, CurveCondition)]
    found += [
        _varying(report, "PGD against eps", "eps * 255", _eps),
        _varying(report, "PGD against steps", "steps", _steps),
        _varying(report, "Rotation", "degrees clockwise", _degrees),
        *(_varying(report, name.replace("_", " "), "severity", _severity(name)) for name in _corruptions(conditions)),
    ]
    return [chart for chart in found if max((len(each.points) for each in chart.series), default=0) >= LEAST_POINTS]


def _of_curve(report: Report, index: int) -> Chart:
    def points(model: ModelReport) -> Iterable[tuple[float, Proportion]]:
        if clean := model.conditions[index].clean_accuracy:
            yield 0.0, clean
        yield from ((255 * each.eps, each.robust_accuracy) for each in model.conditions[index].curve)

    series = tuple(Series(model=model.model, points=tuple(points(model))) for model in report.models)
    return Chart(title=report.plan.spec.conditions[index].title, x_label="eps * 255", series=series)


def _varying(report: Report, title: str, x_label: str, x_of: Callable[[Condition], float | None]) -> Chart:
    values = [(x, index) for index, each in enumerate(report.plan.spec.conditions) if (x := x_of(each)) is not None]
    if len({x for x, _ in values}) < len(values):  # something else varies too
        values = []
    series = tuple(
        Series(
            model=model.model,
            points=tuple((x, score) for x, index in sorted(values) if (score := model.conditions[index].score)),
        )
        for model in report.models
    )
    return Chart(title=title, x_label=x_label, series=series)


def _pgd(condition: Condition) -> AdversarialCondition | None:
    """The condition, if it is one untargeted Linf PGD."""
    if not isinstance(condition, AdversarialCondition) or condition.targets or condition.threat.norm != "Linf":
        return None
    return condition if [choice.name for choice in condition.attacks] == ["pgd"] else None


def _eps(condition: Condition) -> float | None:
    found = _pgd(condition)
    return None if found is None else 255 * found.threat.eps


def _steps(condition: Condition) -> float | None:
    found = _pgd(condition)
    steps = None if found is None else found.attacks[0].parameters["steps"]
    return float(steps) if isinstance(steps, int) else None


def _degrees(condition: Condition) -> float | None:
    if condition.kind == "clean":
        return 0.0
    return _parameter(condition, "rotation", "degrees")


def _corruptions(conditions: Iterable[Condition]) -> list[str]:
    found = [
        str(each.parameters["name"])
        for each in conditions
        if isinstance(each, TransformCondition) and each.name == "corruption"
    ]
    return list(dict.fromkeys(found))


def _severity(name: str) -> Callable[[Condition], float | None]:
    def severity(condition: Condition) -> float | None:
        if condition.kind == "clean":
            return 0.0
        given = isinstance(condition, TransformCondition) and condition.parameters.get("name") == name
        return _parameter(condition, "corruption", "severity") if given else None

    return severity


def _parameter(condition: Condition, transform: str, parameter: str) -> float | None:
    if not isinstance(condition, TransformCondition) or condition.name != transform:
        return None
    value = condition.parameters[parameter]
    return float(value) if isinstance(value, int | float) else None
