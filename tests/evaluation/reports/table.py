"""A hand-made table of results, small enough to count by hand."""

from evaluation import EvaluationSpec, Plan, Shard, ShardResult
from evaluation.compute.conditions import Row
from evaluation.data.classes import ClassMatch

PGD = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 0.1}, "attacks": [{"name": "pgd"}], "targets": "random"}


SPEC = EvaluationSpec.model_validate(
    {
        "models": ["m"],
        "dataset": "d",
        "images": 10,
        "conditions": [
            {"kind": "clean"},
            {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}},
            PGD,
        ],
    }
)


def equal_classes(count: int) -> dict[str, ClassMatch]:
    return {"m": ClassMatch(rule="name", logits=tuple(range(count)), model_classes=count)}


PLAN = Plan(
    id="0" * 16,
    spec=SPEC,
    images=10,
    classes=10,
    matches=equal_classes(10),
    dataset_sha256="d" * 64,
    model_sha256={"m": "e" * 64},
)


def row(index: int, label: int, clean: int, prediction: int, **more: object) -> Row:
    facts = {"clean_confidence": 0.9, "confidence": 0.5, "rank": 0 if prediction == label else 3}
    return Row.model_validate(
        {"index": index, "label": label, "clean_prediction": clean, "prediction": prediction, **facts, **more}
    )


def result(condition: int, rows: list[Row], start: int = 0) -> ShardResult:
    shard = Shard(model="m", condition=condition, start=start, stop=start + len(rows))
    return ShardResult(shard=shard, rows=tuple(rows), images_forwarded=3 * len(rows), seconds=0.5)


CLEAN = [row(i, 1, 1 if i < 8 else 2, 1 if i < 8 else 2) for i in range(10)]


ROTATED = [row(i, 1, 1 if i < 8 else 2, 1 if i in (0, 1, 9) else 4, rank=0 if i in (0, 1, 9) else i) for i in range(10)]


ATTACKED = [
    *(row(i, 1, 1, 5, flipped_by="pgd", reached=i == 0, distance=0.1) for i in (0, 1, 2)),
    row(3, 1, 1, 5, within_budget=False, reached=False, distance=0.3),
    *(row(i, 1, 1, 1, reached=False, distance=0.1) for i in (4, 5, 6, 7)),
    row(8, 1, 2, 1, reached=False, distance=0.1),
    row(9, 1, 2, 6, reached=True, distance=0.1),
]
