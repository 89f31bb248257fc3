"""Scores as others claim them: of a model card, a paper or a leaderboard."""

from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter

from attacks import ThreatModel
from common.validation import Whole
from evaluation.claims import Claim
from evaluation.presets import conditions_of
from evaluation.spec import CleanCondition, Condition, EvaluationSpec, Name


def _parse_threat(value: object) -> object:
    if not isinstance(value, str):
        return value
    norm, colon, eps = value.partition(":")
    if not colon:
        raise ValueError(f"a threat is NORM:EPS, such as Linf:8/255 or L2:0.5, got {value!r}")
    return {"norm": norm, "eps": eps}


class ClaimedScore(Claim):
    """A model's score on a data set, with what it is the score of."""

    model: Annotated[Name, Field(description="name of a checkpoint")]
    dataset: Annotated[str, Field(description="name of a data set")]
    threat: Annotated[
        ThreatModel | None,
        BeforeValidator(_parse_threat),
        Field(description='the budget of the attacks, such as "Linf:8/255"; null: the images as they are'),
    ] = None
    preset: Annotated[
        str | None, Field(description="the attacks; null: AutoAttack's standard version, or none without a threat")
    ] = None
    images: Annotated[Whole | None, Field(ge=1, description="how many to look at, at most; null: all if need be")] = (
        None
    )
    selection_seed: Annotated[Whole, Field(ge=0, lt=2**63, description="of the order in which they are drawn")] = 0

    def on(self, dataset: str) -> "ClaimedScore":
        """The same claim about a data set of another name."""
        return self.model_copy(update={"dataset": dataset})

    @property
    def spec(self) -> EvaluationSpec:
        """The evaluation that ends as soon as it is known whether the claim holds.

        Raises:
            UnknownNameError: there is no such preset.
            ValueError: the preset has several scores, or does not attack within one budget.
        """
        return EvaluationSpec(
            models=(self.model,),
            dataset=self.dataset,
            conditions=(self._condition(),),
            images=self.images,
            claim=Claim(**{field: getattr(self, field) for field in Claim.model_fields}),
            selection_seed=self.selection_seed,
        )

    def _condition(self) -> Condition:
        name = self.preset or (None if self.threat is None else "standard")
        if name is None:
            return CleanCondition()
        scored = [each for each in conditions_of([name], self.threat) if each.kind != "clean"]
        if len(scored) != 1:
            titles = ", ".join(each.title for each in scored)
            raise ValueError(
                f"preset: {name} has {len(scored)} scores beside the clean one, and a claim is about one: {titles}"
            )
        return scored[0]


CLAIMS = TypeAdapter(Annotated[list[ClaimedScore], Field(min_length=1)])
"""Several claims, as in a file of a leaderboard."""
