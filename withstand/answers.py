"""What the service answers. Each type is the JSON itself, as `/openapi.json` describes it with units and ranges."""

from typing import Any, Literal, TypedDict

Status = Literal["pending", "running", "paused", "done", "failed", "cancelled"]
Priority = Literal["low", "normal", "high"]
ENDED = frozenset({"done", "failed", "cancelled"})
"""Statuses after which nothing changes any more."""


class ModelView(TypedDict):
    """A checkpoint."""

    name: str
    architecture: str
    options: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    sha256: str
    dataset: str
    training: str
    clean_accuracy: float | None
    clean_accuracy_on: str
    licence: str
    randomised: bool
    parameters: int | None
    macs: int | None
    attention_layers: list[str] | None
    measured: dict[str, Any] | None


class Unusable(TypedDict):
    """A model or a data set that is there, but cannot be used."""

    name: str
    problem: str


class Architecture(TypedDict):
    """What a checkpoint may be: a network by its name."""

    name: str
    input_shape: list[int]
    paper: str
    published: list[float]


class AddedModel(TypedDict):
    """A checkpoint that was added."""

    name: str
    card: dict[str, Any]
    parameters: int
    macs: int | None
    input_shape: list[int]
    training_facts: dict[str, Any]
    assumed: list[dict[str, Any]]
    links: dict[str, str]


class DatasetView(TypedDict):
    """A data set; what is None is being counted."""

    name: str
    images: int | None
    classes: list[str] | None
    sha256: str | None
    size_bytes: int | None


class Matched(TypedDict):
    """How the classes of a data set were found among a model's; `problem` says why they were not."""

    model: str
    rule: str | None
    classes: dict[str, str]
    problem: str | None


class DatasetDetails(DatasetView):
    """A data set, and what is in it; `match` is null without a model."""

    images_by_class: dict[str, int]
    ignored: int
    match: Matched | None


class ClassScore(TypedDict):
    """A class with its probability."""

    label: str
    index: int
    probability: float


class Prediction(TypedDict):
    """The most probable classes of one picture, or what was wrong with it."""

    file: str
    top: list[ClassScore]
    error: dict[str, Any] | None


class Predictions(TypedDict):
    """One prediction per picture, in the order sent."""

    model: str
    version: str
    predictions: list[Prediction]


class Explanation(TypedDict):
    """What one attention layer weights in a picture."""

    model: str
    file: str
    top: ClassScore
    layer: str
    layers: list[str]
    kind: str
    query: list[float] | None
    maps: list[list[list[float]]]
    scale: list[float]
    points: list[list[list[float]]] | None
    scores: list[list[float]] | None
    overlays: list[str]


class ProgressView(TypedDict):
    """How far an evaluation is."""

    images_done: int
    images_total: int
    passes_done: int
    passes_total: int
    shards_done: int
    shards_total: int
    images_per_s: float | None
    eta_s: float | None


class LimitsView(TypedDict):
    """What an evaluation may take, and has taken."""

    max_devices: int | None
    max_hours: float | None
    device_hours: float


class Label(TypedDict):
    """Name, tags and note of an evaluation."""

    name: str
    tags: list[str]
    note: str


class EvaluationView(TypedDict):
    """An evaluation; its report is there when one evaluation is asked for."""

    id: str
    status: Status
    priority: Priority
    limits: LimitsView
    label: Label
    created_at: str
    spec: dict[str, Any]
    progress: ProgressView
    error: str | None
    links: dict[str, str]
    report: dict[str, Any] | None


class EvaluationList(TypedDict):
    """A page of evaluations, the newest first."""

    evaluations: list[EvaluationView]
    damaged: list[Unusable]
    next_cursor: int | None


class Estimate(TypedDict):
    """What an evaluation would cost at most."""

    evaluation: str
    images: int
    images_done: int
    passes: int
    seconds: float


class ClassResult(TypedDict):
    """One class under one condition; `taken_for` counts what its images were taken for."""

    name: str
    clean_accuracy: dict[str, Any]
    score: dict[str, Any]
    taken_for: dict[str, int]


class ClassResults(TypedDict):
    """The classes of one model under one condition, the lowest score first."""

    model: str
    condition: str
    classes: list[ClassResult]


class CalibrationView(TypedDict):
    """How far the confidences of one model under one condition can be trusted; null while no image has one."""

    model: str
    condition: str
    calibration: dict[str, Any] | None


class ClassDifference(TypedDict):
    """Two models on the images of one class."""

    name: str
    n: int
    difference: float
    p_holm: float


class ConditionComparison(TypedDict):
    """Two models under one condition."""

    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    low: float
    high: float
    p: float
    title: str
    p_holm: float
    images_only_first: list[int]
    images_only_second: list[int]
    classes: list[ClassDifference]


class Comparison(TypedDict):
    """Two models on the same images."""

    first: str
    second: str
    conditions: list[ConditionComparison]


class QueueView(TypedDict):
    """What runs and what waits."""

    paused: bool
    running: list[dict[str, Any]]
    running_of_others: int
    waiting: list[dict[str, Any]]
    waiting_in_all: dict[str, int]
    waiting_of_others: dict[str, int]


class DeviceList(TypedDict):
    """The devices that run evaluations."""

    devices: list[dict[str, Any]]


class FailureList(TypedDict):
    """The shards whose last try has failed, the latest first."""

    failures: list[dict[str, Any]]
