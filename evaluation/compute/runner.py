"""Run one shard: the images of a range through a condition and a model, one row per image."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import TypeVar

import torch
from torch import nn

import attacks
import models
from common.float32 import float32_as
from common.validation import Frozen
from evaluation.choices import rounds
from evaluation.compute.checks import PREFLIGHT_IMAGES, Check, probes
from evaluation.compute.conditions import Batch, Outcome, Row, run_condition
from evaluation.compute.counterchecks import CHECKED, LEAST, checked_attack, counterchecks
from evaluation.compute.examples import Example, make_examples
from evaluation.compute.preflight import preflight, preflight_randomised
from evaluation.compute.progress import OnProgress, reporting_passes
from evaluation.compute.randomised import Treatment, run_randomised
from evaluation.compute.randomised_checks import CHECKED as CHECKED_RANDOMISED
from evaluation.compute.randomised_checks import check_randomised
from evaluation.data.classes import match_classes
from evaluation.data.datasets import ImageFolder
from evaluation.data.pixels import Ahead
from evaluation.plan import Shard
from evaluation.spec import AdversarialCondition, Attacking, EvaluationSpec

BATCH_PIXELS = 2**20
"""Height times width times images of one batch: 20 images at 224 x 224."""

GROUP_PIXELS = 2**24
"""The same of what a searched copy takes apart by itself: 334 images at 224 x 224, so that few of its batches are not full."""

EXAMPLES = 4
"""Pictures of flipped images that are stored for a model and condition."""


T = TypeVar("T")


class ShardResult(Frozen):
    """A finished shard; `preflight` comes with a model's first condition; `checks`, `flipped_by_checks` and `examples` with the
    first images.

    `rounds` is the number of the condition's rounds if it is a cascade, else 1. `not_run` names the attacks that need a gradient,
    where the model has none.
    """

    shard: Shard
    rounds: int = 1
    rows: tuple[Row, ...]
    images_forwarded: int
    seconds: float
    preflight: tuple[Check, ...] = ()
    checks: tuple[Check, ...] = ()
    flipped_by_checks: tuple[Row, ...] = ()
    not_run: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    made_with: str = ""

    @property
    def worst(self) -> "ShardResult":
        """The same where the images that only checks have flipped count as flipped."""
        worse = {row.index: row for row in self.flipped_by_checks}
        rows = tuple(row if row.flipped_by else worse.get(row.index, row) for row in self.rows)
        return self.model_copy(update={"rows": rows}) if worse else self

    def first(self, images: int) -> "ShardResult":
        """Cut it to its first images; what it cost is shared out evenly."""
        if images >= len(self.rows):
            return self
        rows, share = self.rows[:images], images / len(self.rows)
        indices = {row.index for row in rows}
        return self.model_copy(
            update={
                "shard": self.shard.model_copy(update={"stop": self.shard.start + images}),
                "rows": rows,
                "images_forwarded": round(share * self.images_forwarded),
                "seconds": share * self.seconds,
                "flipped_by_checks": tuple(each for each in self.flipped_by_checks if each.index in indices),
                "examples": tuple(each for each in self.examples if each.index in indices),
            }
        )


def furthest(results: Iterable[ShardResult], shard: Shard) -> ShardResult | None:
    """Choose, of results at the addresses `Plan.resumable_addresses`, the one from which a shard has least left to do."""
    chosen = max(results, key=lambda each: each.rounds * min(each.shard.images, shard.images), default=None)
    return None if chosen is None else chosen.first(shard.images)


def best_device() -> str:
    """Name the device to use when none is asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def batch_size(side: int) -> int:
    """How many square images of a side, in pixels, make a batch."""
    return max(1, BATCH_PIXELS // side**2)


@float32_as("ieee")
def run_shard(
    spec: EvaluationSpec,
    shard: Shard,
    *,
    classifier: models.Classifier,
    dataset: ImageFolder,
    searched: nn.Module | None = None,
    explained: models.Classifier | None = None,
    known: ShardResult | None = None,
    broken: Collection[int] = (),
    has_gradient: bool = True,
    randomised: bool = False,
    sources: Callable[[], Sequence[models.Classifier]] = tuple,
    following: Shard | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> ShardResult:
    """Run a shard on the device that holds the classifier. A batch that does not fit into its memory is halved.

    Args:
        spec: the whole evaluation.
        shard: which part of it.
        classifier: the shard's model, whose verdict counts.
        dataset: the evaluation's images.
        searched: what attacks see instead of it; see `models.fold`.
        explained: shows its attention in examples; None where it has none.
        known: what came before of these images or the first of them, under this condition or the beginning of its cascade. What is
            decided is not run again, if versions and hardware are the same. The result is that of a run from nothing; where that
            cuts its batches elsewhere, confidences may differ in their last bits.
        broken: indices of pictures that the selection passes over.
        has_gradient: False leaves out the attacks that need one.
        randomised: whether passes of the model differ, unless the specification says whether they do.
        sources: gives other models whose adversarial images are tried on this one; see `Plan.sources`.
        following: of the same model, likely to be run next: its pictures are decoded meanwhile.
        on_progress: called with the images that are run, also within a batch, see `reporting_passes`, and with those to be run.

    Raises:
        DatasetError: an image cannot be decoded.
        AttackError: an attack cannot be run as asked.
        PreflightError: the model cannot be evaluated as it is.
    """
    made_with = _made_with(classifier.device)
    known = None if known is None or known.made_with != made_with else known
    treated = Treatment.of(spec, classifier, differs=randomised)
    if treated and isinstance(searched, attacks.Captured):
        searched = searched.model  # a graph may replay the random numbers of its capture
    source = _Source(
        spec,
        shard,
        classifier,
        searched or classifier,
        dataset,
        broken,
        has_gradient=has_gradient,
        randomised=treated,
        following=following,
    )
    if treated and known and known.rounds != source.rounds:
        known = None  # the image that a shorter cascade has chosen is not known
    found = _Found() if known is None else _Found.of(known, source.indices)
    preflights = source.preflight()
    _run_rest(source, known, found, explained, on_progress)
    checks, worse = source.check(found.rows, sources)
    return ShardResult(
        shard=shard,
        rounds=source.rounds,
        rows=tuple(found.rows[position] for position in range(len(source.indices))),
        images_forwarded=found.images_forwarded,
        seconds=source.seconds + (known.seconds if known else 0),
        preflight=preflights,
        checks=checks,
        flipped_by_checks=worse,
        not_run=source.not_run,
        examples=tuple(found.examples[position] for position in sorted(found.examples)[:EXAMPLES]),
        made_with=made_with,
    )


def _run_rest(
    source: "_Source",
    known: ShardResult | None,
    found: "_Found",
    explained: models.Classifier | None,
    on_progress: OnProgress,
) -> None:
    """Run what is not known yet, batch by batch."""
    left = [*source.left(known)]
    run, total = 0, sum(len(positions) for _, positions in left)
    for first_round, positions in left:
        done = 0
        while done < len(positions):
            batch, outcome = source.run(
                positions[done:], first_round, on_images=lambda images, run=run: on_progress(run + images, total)
            )
            found.take(positions[done:], batch, outcome, first_round)
            if source.is_first:
                found.show(positions[done:], batch, outcome, explained)
            done += len(batch.indices)
            run += len(batch.indices)
            if run < total:
                on_progress(run, total)


class _Source:
    """The images of a shard, by their positions in it, and what is to be done with them, in batches that fit into memory."""

    def __init__(
        self,
        spec: EvaluationSpec,
        shard: Shard,
        classifier: models.Classifier,
        searched: nn.Module,
        dataset: ImageFolder,
        broken: Collection[int],
        *,
        has_gradient: bool,
        randomised: Treatment | None,
        following: Shard | None,
    ) -> None:
        self._started = time.perf_counter()
        chosen = dataset.select(spec.images, spec.selection_seed, broken=broken, evenly=spec.claim is None)
        self.indices = chosen[shard.start : shard.stop]
        side = classifier.card.preprocessing.crop
        self._few = min(batch_size(side), len(self.indices))
        grouped = min(GROUP_PIXELS // side**2, len(self.indices))
        self._many = grouped if isinstance(searched, attacks.Captured) else self._few
        self._ahead = Ahead(
            dataset.pixels(classifier.card.preprocessing),
            self.indices,
            () if following is None else chosen[following.start : following.stop],
            pinned=classifier.device.type == "cuda",
        )
        self._shard, self.is_first = shard, shard.start == 0
        self.condition = spec.conditions[shard.condition]
        self.rounds = len(rounds(self.condition.attacks)) if isinstance(self.condition, AdversarialCondition) else 1
        self._choices = self.condition.attacks if isinstance(self.condition, Attacking) else ()
        self._has_gradient, self._randomised = has_gradient, randomised
        self._roles = classifier, searched
        self._dataset, self._spec = dataset, spec
        match = match_classes(classifier.card.classes, dataset, shard.model, spec.class_map)
        every = tuple(range(match.model_classes))
        columns = match.columns if spec.logits == "dataset" else every
        if (every if classifier.columns is None else classifier.columns) != columns:
            raise ValueError(f"{shard.model} was not loaded for logits = {spec.logits!r}; see Classifier.restricted")
        self._to_logit = torch.tensor([columns.index(logit) for logit in match.logits])

    @property
    def seconds(self) -> float:
        """How long the shard has been running."""
        return time.perf_counter() - self._started

    @property
    def not_run(self) -> tuple[str, ...]:
        """Titles of the attacks that need a gradient, where the model has none."""
        created = [choice.create() for choice in self._choices]
        return tuple(each.title for each in created if each.uses_gradient and not self._has_gradient)

    def left(self, known: ShardResult | None) -> Iterator[tuple[int, Sequence[int]]]:
        """Say what is left to do: a round of the condition, and the positions at which it is the next."""
        rows = known.rows if known else ()
        repeated: list[int] = []  # what was flipped at the end of a shorter cascade might not reach the end of this one
        if known is not None and isinstance(self.condition, AdversarialCondition) and known.rounds < self.rounds:
            repeated = [position for position, row in enumerate(rows) if row.flipped_in_float32]
            yield known.rounds, [position for position, row in enumerate(rows) if row.open(self.condition)]
        yield 0, [*repeated, *range(len(rows), len(self.indices))]

    def preflight(self) -> tuple[Check, ...]:
        """Look at the model before its first condition."""
        if not self.is_first or self._shard.condition != 0:
            return ()
        checks, self._few = _fitting(self._few, lambda count: _preflight(self._batch(range(count)), self._randomised))
        return checks

    def run(
        self, positions: Sequence[int], first_round: int, *, on_images: Callable[[float], None]
    ) -> tuple[Batch, Outcome]:
        """Run the condition, from a round on, on as many of the first positions as fit."""
        passes = self._spec.passes(self.condition, randomised=self._randomised is not None)

        def run(count: int) -> tuple[Batch, Outcome]:
            batch = self._batch(positions[:count])
            with reporting_passes(self._roles, passes, images=count, on_images=on_images):
                if self._randomised:
                    return batch, run_randomised(self.condition, batch, self._randomised.averaging)
                return batch, run_condition(self.condition, batch, first_round=first_round)

        found, self._many = _fitting(self._many, run)
        return found

    def check(
        self, rows: Mapping[int, Row], sources: Callable[[], Sequence[models.Classifier]]
    ) -> tuple[tuple[Check, ...], tuple[Row, ...]]:
        """Check the attack on the first images; returns the checks, and the rows of images that only they have flipped."""
        if not self.is_first:
            return (), ()
        if self._randomised:
            batch = self._batch(range(min(self._few, CHECKED_RANDOMISED)))
            known = [rows[position] for position in range(len(batch.indices))]
            return check_randomised(self._spec, self._shard.condition, batch, known, self._randomised.averaging), ()
        probed, few = _fitting(
            self._few, lambda count: probes(self._spec, self._shard.condition, self._batch(range(count)), rows)
        )
        (more, worse), _ = _fitting(few, lambda count: self._countercheck(rows, sources, count))
        return (*probed, *more), worse

    def _countercheck(
        self, rows: Mapping[int, Row], sources: Callable[[], Sequence[models.Classifier]], count: int
    ) -> tuple[tuple[Check, ...], tuple[Row, ...]]:
        """Attack the first `count` images that stand in another way; see `counterchecks`."""
        standing = [position for position in sorted(rows) if rows[position].counts(self.condition)][
            : min(count, CHECKED)
        ]
        if checked_attack(self.condition) is None or len(standing) < LEAST or not self._has_gradient:
            return (), ()
        return counterchecks(self.condition, self._batch(standing), sources())

    def _batch(self, positions: Sequence[int]) -> Batch:
        """Bring the images at some positions to the classifier's device."""
        classifier, searched = self._roles
        indices = [self.indices[position] for position in positions]
        pixels = self._ahead.take(positions).to(classifier.device, non_blocking=True)
        labels = self._to_logit[[self._dataset.labels[index] for index in indices]]
        there = models.scaled(pixels), labels.to(classifier.device)
        return Batch(
            classifier,
            searched,
            *there,
            indices,
            self._spec.seed,
            classifier.columns,
            has_gradient=self._has_gradient,
            precision=self._spec.precision,
        )


@dataclass
class _Found:
    """What came of the images so far, by their positions in the shard."""

    rows: dict[int, Row] = field(default_factory=dict[int, Row])
    examples: dict[int, Example] = field(default_factory=dict[int, Example])
    images_forwarded: int = 0

    @classmethod
    def of(cls, known: ShardResult, indices: Sequence[int]) -> "_Found":
        """Begin with what is known of the first images of a shard."""
        examples = {indices.index(example.index): example for example in known.examples}
        return cls(dict(enumerate(known.rows)), examples, known.images_forwarded)

    def take(self, positions: Sequence[int], batch: Batch, outcome: Outcome, first_round: int) -> None:
        """Take in a batch, of the first of `positions`; what earlier rounds found is joined with it."""
        self.images_forwarded += outcome.images_forwarded
        for position, row in zip(positions, outcome.rows(batch), strict=False):
            self.rows[position] = self.rows[position].followed_by(row) if first_round else row

    def show(
        self, positions: Sequence[int], batch: Batch, outcome: Outcome, explained: models.Classifier | None
    ) -> None:
        """Draw what was flipped in a batch, of the first of `positions`, as far as it is among the first of all."""
        before = sum(position < positions[0] for position in self.examples)
        for example in make_examples(batch, outcome, explained, EXAMPLES - before):
            position = positions[batch.indices.index(example.index)]
            if position not in self.examples or self.rows[position].reached:  # as the rows were joined
                self.examples[position] = example


def _fitting(count: int, work: Callable[[int], T]) -> tuple[T, int]:
    """Do work on a batch of `count` images, halved until it fits into memory; returns what came of it and the count that fits."""
    while True:
        try:
            return work(count), count
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            count //= 2


@cache
def _made_with(device: torch.device) -> str:
    """Versions and hardware that an exact repetition needs."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"withstand {version('withstand')}, torch {torch.__version__}, {device.type} {where}"


def _preflight(batch: Batch, randomised: Treatment | None) -> tuple[Check, ...]:
    few = slice(CHECKED_RANDOMISED if randomised else PREFLIGHT_IMAGES)
    looked_at = batch.images[few], batch.labels[few], batch.indices[few]
    if randomised:
        return preflight_randomised(batch.classifier, *looked_at, randomised)
    return preflight(batch.classifier, *looked_at)
