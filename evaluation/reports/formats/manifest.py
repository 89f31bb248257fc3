"""The manifest: what an exact repetition needs."""

import json
from typing import Any

from evaluation.reports.registry import Format, register_format
from evaluation.reports.report import Report


def manifest(report: Report) -> dict[str, Any]:
    """What an exact repetition needs: specification, hashes of models and data, versions."""
    plan = report.plan
    return {
        "evaluation": plan.id,
        "complete": report.complete,
        "spec": plan.spec.model_dump(mode="json"),
        "dataset_sha256": plan.dataset_sha256,
        "model_sha256": plan.model_sha256,
        "made_with": list(report.made_with),
    }


register_format(
    Format(
        name="manifest",
        media_type="application/json",
        description="specification, hashes and versions: what a repetition needs",
        write=lambda report, rows: json.dumps(manifest(report), indent=2),
    )
)
