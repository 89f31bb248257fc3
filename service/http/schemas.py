"""The bodies of requests and answers."""

import os
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, Strict

from common import printable
from evaluation import EvaluationSpec, Report
from evaluation.data.dataset_check import Matched
from evaluation.data.datasets import ImageFolder
from evaluation.reports.calibration import Calibration
from evaluation.reports.classes import ClassResult
from evaluation.spec import Name
from models import Added, Differences, ModelCard, ModelSpec, Preprocessing, Question
from service.jobs.evaluations import Evaluation, Limits, Priority, ShardStatus, Status
from service.jobs.labels import Label
from service.jobs.limits import HOUR_S
from service.jobs.reports.measurements import Measured

MaxDevices = Annotated[int, Field(ge=1, le=10_000, description="shards of it that run at the same time, at most")]
MaxHours = Annotated[
    float,
    Field(
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="that devices may work on it, summed; once they have, it fails and keeps what is finished",
    ),
]

STRICT = ConfigDict(extra="forbid")
MOST_DIFFERENCES = 50
"""Names that an error lists of one kind."""


class ModelView(BaseModel):
    """A checkpoint that can be asked for predictions and evaluated."""

    name: str
    architecture: str
    options: Annotated[dict[str, object], Field(description="of the architecture, where they differ from its defaults")]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str
    dataset: str
    training: str
    clean_accuracy: float | None
    clean_accuracy_on: str
    licence: str
    randomised: Annotated[bool, Field(description="whether passes of the same image differ on purpose")] = False
    parameters: Annotated[
        int | None,
        Field(description="learned values; null where a graph hides them, and until they are counted"),
    ] = None
    macs: Annotated[
        int | None, Field(description="multiply-accumulate operations for one image; null as `parameters`")
    ] = None
    attention_layers: Annotated[
        tuple[str, ...] | None, Field(description="layers that can be explained; null as `parameters`")
    ] = None
    measured: Annotated[
        Measured | None, Field(description="by the latest evaluation that is done; null where there is none")
    ] = None


class Unusable(BaseModel):
    """A model or a data set that is there, but cannot be used."""

    name: str
    problem: Annotated[str, Field(description="why it cannot be used")]

    @classmethod
    def of(cls, name: str, error: Exception) -> Self:
        """Say why, without the paths that the operating system's errors have."""
        reason = error.strerror if isinstance(error, OSError) else None
        return cls(name=name, problem=printable(reason or str(error)))


class QuestionView(BaseModel):
    """What a checkpoint does not tell, and the likely answer."""

    field: Annotated[str, Field(examples=["preprocessing.crop"])]
    why: str
    likely: object
    allowed: str

    @classmethod
    def of(cls, question: Question) -> "QuestionView":
        """Describe a question."""
        return cls.model_validate(question, from_attributes=True)


class OpenQuestions(BaseModel):
    """Members of the error when a checkpoint does not tell enough: the questions, and a card with the likely answers to edit."""

    questions: list[QuestionView]
    card: ModelCard


class DifferencesView(BaseModel):
    """Members of the error when a checkpoint fits no architecture: the nearest one, and where it differs."""

    nearest: str
    share: Annotated[float, Field(description="of all tensors, those with equal names and shapes, fraction")]
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @classmethod
    def of(cls, found: Differences) -> "DifferencesView":
        """Describe differences; of long lists the beginning."""
        groups = {name: list(getattr(found, name))[:MOST_DIFFERENCES] for name in ("missing", "unexpected", "shapes")}
        return cls(nearest=found.architecture, share=found.share, **groups)


class ModelRequest(BaseModel):
    """A checkpoint that lies in one of the model folders, to be added."""

    model_config = STRICT

    path: Annotated[str, Field(min_length=1, max_length=1024, description="below one of the model folders")]
    name: Annotated[Name | None, Field(description="null takes the file's name without its ending")] = None
    card: Annotated[dict[str, object], Field(description="fields of the card that are known, some or all")] = {}
    accept_likely: Annotated[bool, Field(description="take the likely answers to open questions")] = False


class AddedModel(BaseModel):
    """A model that was added."""

    name: str
    card: ModelCard
    parameters: int
    macs: Annotated[int | None, Field(description="multiplications for one image; null where a graph hides them")]
    input_shape: tuple[int, int, int]
    training_facts: Annotated[dict[str, str | int | float], Field(description="stored beside the weights")]
    assumed: Annotated[list[QuestionView], Field(description="likely answers that were taken")]
    links: dict[str, str]

    @classmethod
    def of(cls, added: Added, *, root: str = "") -> "AddedModel":
        """Describe a model that was added; `root` is the path prefix of the service."""
        here = f"{root}/v1/models/{added.checkpoint.name}"
        return cls(
            name=added.checkpoint.name,
            card=added.card,
            parameters=added.parameters,
            macs=added.macs,
            input_shape=added.input_shape,
            training_facts=added.facts,
            assumed=[QuestionView.of(each) for each in added.assumed],
            links={"self": here, "predict": f"{here}/predict"},
        )


class DatasetView(BaseModel):
    """A data set that models can be evaluated on; what is None is still being counted."""

    name: str
    images: int | None = None
    classes: tuple[str, ...] | None = None
    sha256: str | None = None
    size_bytes: Annotated[int | None, Field(description="of its files on the disk")] = None

    @classmethod
    def of(cls, name: str, dataset: ImageFolder) -> Self:
        """Count a data set, and hash it if it changed."""
        size_bytes = _size_bytes(dataset.path, dataset.sha256)
        return cls(
            name=name, images=len(dataset), classes=dataset.classes, sha256=dataset.sha256, size_bytes=size_bytes
        )


@lru_cache(256)
def _size_bytes(path: Path, _sha256: str) -> int:
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in files)


class DatasetDetails(DatasetView):
    """A data set, and what is in it."""

    images_by_class: dict[str, int]
    ignored: Annotated[int, Field(description="files that are no pictures, by their names")]
    match: Annotated[Matched | None, Field(description="with the classes of the model that was asked for")] = None


class ManifestView(BaseModel):
    """The report as its manifest: what an exact repetition needs."""

    model_config = STRICT

    evaluation: Annotated[str, Field(description="its id")]
    complete: bool
    spec: EvaluationSpec
    dataset_sha256: str
    model_sha256: dict[str, str]
    made_with: list[str]


class ProgressView(BaseModel):
    """How far an evaluation is. An image counts once for every model and condition, those of running shards included.

    Passes are those of an image through a model that the conditions may take at most; they advance within an image too.
    """

    images_done: int
    images_total: int
    passes_done: int
    passes_total: int
    shards_done: int
    shards_total: int
    images_per_s: float | None
    eta_s: float | None


def _needed(counts: dict[ShardStatus, int]) -> int:
    return sum(count for status, count in counts.items() if status is not ShardStatus.SKIPPED)


class LimitsRequest(BaseModel):
    """What an evaluation may take; null is no limit."""

    model_config = STRICT

    max_devices: Annotated[MaxDevices, Strict()] | None = None
    max_hours: Annotated[MaxHours, Strict()] | None = None

    @property
    def limits(self) -> Limits:
        """The same for the store."""
        return Limits(self.max_devices, self.max_hours)


class LimitsView(BaseModel):
    """What an evaluation may take, and has taken; null is no limit."""

    max_devices: int | None
    max_hours: float | None
    device_hours: Annotated[
        float, Field(description="that devices have worked on it, failed tries included; what still runs is not")
    ]


class EvaluationView(BaseModel):
    """A submitted evaluation; `report` is there when one evaluation is asked for, partial while it runs."""

    id: str
    status: Annotated[
        Status,
        Field(description="paused too where the whole queue is: running shards are finished, no others are started"),
    ]
    priority: Priority
    limits: LimitsView
    label: Label
    created_at: datetime
    spec: EvaluationSpec
    progress: ProgressView
    error: str | None
    links: dict[str, str]
    report: Report | None = None

    @classmethod
    def of(cls, evaluation: Evaluation, report: Report | None = None, *, root: str) -> "EvaluationView":
        """Describe a stored evaluation; `root` is the path prefix of the service."""
        progress = evaluation.progress
        here = f"{root}/v1/evaluations/{evaluation.id}"
        return cls(
            id=evaluation.id,
            status=evaluation.status,
            priority=evaluation.priority,
            limits=LimitsView(**asdict(evaluation.limits), device_hours=evaluation.device_s / HOUR_S),
            label=evaluation.label,
            created_at=evaluation.created_at,
            spec=evaluation.plan.spec,
            progress=ProgressView(
                images_done=progress.images_done,
                images_total=_needed(progress.images),
                passes_done=progress.passes_done,
                passes_total=_needed(progress.passes),
                shards_done=progress.shards.get(ShardStatus.DONE, 0),
                shards_total=_needed(progress.shards),
                images_per_s=progress.images_per_s,
                eta_s=progress.eta_s if evaluation.status in {Status.PENDING, Status.RUNNING} else None,
            ),
            error=progress.error,
            links={
                "self": here,
                "events": f"{here}/events",
                "report": f"{here}/report",
                "page": f"{root}/evaluations/{evaluation.id}",
            },
            report=report,
        )


class EvaluationList(BaseModel):
    """A page of evaluations, the newest first."""

    evaluations: list[EvaluationView]
    damaged: Annotated[list[Unusable], Field(description="of this page, by their ids: their plans cannot be read")] = []
    next_cursor: Annotated[int | None, Field(description="pass as `cursor` for the next page; null on the last")]


class Architecture(BaseModel):
    """What a checkpoint may be: a network by its name."""

    name: str
    input_shape: Annotated[tuple[int, int, int], Field(description="channels, height and width it was published for")]
    paper: str
    published: Annotated[tuple[float, ...], Field(description="top-1 and top-5 on ImageNet by its paper, percent")]

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """Describe an architecture of the registry."""
        return cls(name=spec.name, input_shape=spec.input_shape, paper=spec.paper, published=spec.published)


class ClassResults(BaseModel):
    """The classes of one model under one condition, over the images done so far; the lowest score comes first."""

    model: str
    condition: Annotated[str, Field(description="its title")]
    classes: tuple[ClassResult, ...]


class CalibrationView(BaseModel):
    """How far the confidences of one model under one condition can be trusted, over the images done so far."""

    model: str
    condition: Annotated[str, Field(description="its title")]
    calibration: Annotated[Calibration | None, Field(description="null while no image has a finite confidence")]
