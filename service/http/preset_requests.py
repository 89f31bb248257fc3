"""Requests for evaluations under the conditions of a preset."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from attacks import Norm, PixelScale, TargetRule, ThreatModel
from common.validation import Whole
from evaluation import Condition, EvaluationSpec, pgd_conditions
from evaluation.data.classes import ClassMap
from evaluation.spec import EOT_PASSES, JUDGED_PASSES, MAX_PASSES, Name, OnBroken
from models import Precision
from service.http.schemas import STRICT


class PresetRequest(BaseModel):
    """Models and images, for routes that bring their own conditions."""

    model_config = STRICT

    models: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64, examples=[["resnet_mini.fashion_mnist"]])]
    dataset: Annotated[Name, Field(examples=["fashion_mnist_test"])]
    class_map: Annotated[
        ClassMap | None, Field(description="the model's class, by name or index, for every class of the data set")
    ] = None
    logits: Annotated[
        Literal["all", "dataset"], Field(description="among which classes a model chooses: its own, or the data set's")
    ] = "all"
    images: Annotated[Whole | None, Field(ge=1, description="how many; null takes all", examples=[200])] = None
    precision: Annotated[Precision, Field(description="in which attacks look; judged in float32")] = "float32"
    stop_width: Annotated[
        float | None, Field(gt=0, lt=1, description="end a condition early once its 95 % interval is as narrow")
    ] = None
    on_broken: Annotated[OnBroken, Field(description="broken pictures: refuse, or leave them out")] = "fail"
    randomised: Annotated[
        bool | None, Field(description="whether passes of one image differ; null: as cards say, or where two passes do")
    ] = None
    eot_passes: Annotated[
        Whole, Field(ge=1, le=MAX_PASSES, description="whose mean attacks on a randomised model see")
    ] = EOT_PASSES
    judged_passes: Annotated[
        Whole, Field(ge=1, le=MAX_PASSES, description="by which an image is judged, if the model is randomised")
    ] = JUDGED_PASSES
    seed: Annotated[Whole, Field(ge=0, lt=2**63, description="of all random draws but the selection")] = 0
    selection_seed: Annotated[Whole, Field(ge=0, lt=2**63, description="of the selection of images")] = 0

    def under(self, conditions: tuple[Condition, ...]) -> EvaluationSpec:
        """Fill in the conditions."""
        return EvaluationSpec(**self.model_dump(include=set(PresetRequest.model_fields)), conditions=conditions)


class BudgetRequest(PresetRequest):
    """The same, for conditions that attack within one budget."""

    threat: Annotated[
        ThreatModel | None,
        Field(
            description="norm and eps to attack within instead of the preset's own",
            examples=[{"norm": "Linf", "eps": "4/255"}],
        ),
    ] = None


class PgdRequest(PresetRequest):
    """Clean, and projected gradient descent at each eps."""

    eps: Annotated[
        tuple[PixelScale, ...],
        Field(
            min_length=1, max_length=32, description="radii on the [0, 1] scale, numbers or texts", examples=[["8/255"]]
        ),
    ] = (8 / 255,)
    norm: Norm = Norm.LINF
    steps: Annotated[Whole, Field(ge=1, le=10_000)] = 20
    step_size: Annotated[PixelScale | None, Field(description="null takes 2.5 * eps / steps")] = None
    random_start: Annotated[bool, Field(strict=True)] = True
    restarts: Annotated[Whole, Field(ge=1, le=1_000)] = 1
    targets: TargetRule | None = None

    def spec(self) -> EvaluationSpec:
        """Fill in the conditions."""
        return self.under(pgd_conditions(**self.model_dump(exclude=set(PresetRequest.model_fields))))
