"""Evaluations: a specification in, a report out.

import evaluation

spec = evaluation.EvaluationSpec(
    models=("resnet_mini.fashion_mnist",),
    dataset="fashion_mnist_test",
    images=200,
    conditions=evaluation.preset("rotation-flip"),
)
print(evaluation.evaluate(spec).to_markdown())
"""

from evaluation.catalog import Catalog
from evaluation.choices import AttackChoice
from evaluation.compute.runner import ShardResult, best_device, run_shard
from evaluation.data.broken import BrokenPicture, BrokenPicturesError, find_broken, select_usable
from evaluation.data.datasets import ImageFolder, SelectionError, open_dataset
from evaluation.data.sources import DatasetError
from evaluation.local import evaluate
from evaluation.plan import Plan, Shard, make_plan
from evaluation.presets import Preset, conditions_of, list_presets, pgd_conditions, preset, preset_names
from evaluation.reports import formats
from evaluation.reports.compare import Comparison, ComparisonError, Side, compare
from evaluation.reports.counting import merge
from evaluation.reports.estimate import Estimate, estimate
from evaluation.reports.registry import Format, FormatError, Rows, register_format, report_format, report_formats
from evaluation.reports.report import Report
from evaluation.reports.rows import image_rows
from evaluation.results.folder import ResultFolder
from evaluation.spec import AdversarialCondition, CleanCondition, Condition, EvaluationSpec, TransformCondition

__all__ = [
    "AdversarialCondition",
    "AttackChoice",
    "BrokenPicture",
    "BrokenPicturesError",
    "Catalog",
    "CleanCondition",
    "Comparison",
    "ComparisonError",
    "Condition",
    "DatasetError",
    "Estimate",
    "EvaluationSpec",
    "Format",
    "FormatError",
    "ImageFolder",
    "Plan",
    "Preset",
    "Report",
    "ResultFolder",
    "Rows",
    "SelectionError",
    "Shard",
    "ShardResult",
    "Side",
    "TransformCondition",
    "best_device",
    "compare",
    "conditions_of",
    "estimate",
    "evaluate",
    "find_broken",
    "formats",
    "image_rows",
    "list_presets",
    "make_plan",
    "merge",
    "open_dataset",
    "pgd_conditions",
    "preset",
    "preset_names",
    "register_format",
    "report_format",
    "report_formats",
    "run_shard",
    "select_usable",
]
