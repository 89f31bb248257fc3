"""Charts: found where one number varies."""

from evaluation import merge
from evaluation.reports.charts import charts
from tests.evaluation.reports.table import CLEAN, PLAN, result


def test_charts_are_found_where_one_number_varies() -> None:
    def condition(**parameters: object) -> dict[str, object]:
        return {"kind": "transform", "name": "rotation", "parameters": parameters}

    def attack(eps: float, steps: int) -> dict[str, object]:
        return {
            "kind": "adversarial",
            "threat": {"norm": "Linf", "eps": eps},
            "attacks": [{"name": "pgd", "parameters": {"steps": steps}}],
        }

    def found(*conditions: dict[str, object]) -> list[tuple[str, list[float]]]:
        spec = PLAN.spec.model_validate(PLAN.spec.model_dump() | {"conditions": [{"kind": "clean"}, *conditions]})
        plan = PLAN.model_copy(update={"spec": spec})
        report = merge(plan, [result(index, CLEAN) for index in range(len(conditions) + 1)])
        return [(chart.title, [x for x, _ in chart.series[0].points]) for chart in charts(report)]

    assert found(condition(degrees=90), condition(degrees=45)) == [("Rotation", [0, 45, 90])]
    assert found(condition(degrees=90)) == []
    assert found(attack(0.1, 5), attack(0.1, 50), attack(0.1, 10)) == [("PGD against steps", [5, 10, 50])]
    assert [title for title, _ in found(attack(0.1, 5), attack(0.2, 5), attack(0.3, 5))] == ["PGD against eps"]
    assert found(attack(0.1, 5), attack(0.2, 50), attack(0.2, 10), attack(0.1, 50)) == []
    curve = {"kind": "curve", "norm": "Linf", "eps": [0.05, 0.1], "attacks": [{"name": "pgd"}]}
    assert [len(points) for _, points in found(curve)] == [3]
