"""From a specification to shards of work."""

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Annotated

from pydantic import Field

import attacks
import models
from common import canonical_json, file_sha256, pictures, text_sha256
from common.validation import Frozen
from evaluation.catalog import Catalog
from evaluation.compute.counterchecks import TRANSFER_SOURCES, checked_attack
from evaluation.data.broken import BrokenPicture, OnLook, select_usable
from evaluation.data.classes import ClassMatch, match_classes
from evaluation.spec import AdversarialCondition, Condition, EvaluationSpec

SHARD_IMAGES = 100
"""Images of a shard, the unit of work that is done once and stored."""

GPU_SHARD_IMAGES = 300
"""The same on a GPU, whose batches fewer images would not fill."""

SHARD_PASSES = 300_000
"""Most passes that a shard of several images may take: 1.5 to 4.5 minutes of the zoo's models on one core, which makes 1,100 to
3,400 of them per second with 20 images or more. AutoAttack has shards of 25 images, as many as its checks look at."""

GPU_SHARD_PASSES = 3_500_000
"""The same on a GPU; AutoAttack's shards stay whole."""


@cache
def code_version() -> str:
    """Version, and hash of the code that decides results: results of other code are not reused."""
    return f"{version('withstand')} {text_sha256(' '.join(map(file_sha256, deciding_sources())))[:16]}"


UNDECIDING = frozenset(
    {
        "models.__main__",
        "models.recognition.fingerprints",
        "models.recognition.hub",
        "models.intake",
        "models.recognition.likely_preprocessing",
        "models.macs",
        "models.recognition.recognise",
        "evaluation.__main__",
        "evaluation.claimed",
        "evaluation.data.dataset_check",
        "evaluation.local",
        "evaluation.presets",
        "evaluation.reports",
        "evaluation.results",
        "evaluation.worker",
    }
)
"""Modules and folders that ask for results, read them or write them down, but do not decide what they are."""


def deciding_sources() -> list[Path]:
    """The files of the code that decides results, those that open pictures included; a new module is among them."""
    packages = (Path(attacks.__file__).parent, Path(models.__file__).parent, Path(__file__).parent)
    sources = [path for package in packages for path in sorted(package.rglob("*.py")) if _decides(path, package.parent)]
    return [*sources, *pictures.SOURCES]


def _decides(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).with_suffix("").parts
    return not any(".".join(parts[:length]) in UNDECIDING for length in range(2, len(parts) + 1))


class Shard(Frozen):
    """One model under one condition on a range of the selected images."""

    model: str
    condition: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        """Number of images."""
        return self.stop - self.start


class Plan(Frozen):
    """A specification, checked against the models and images it names.

    Attributes:
        id: the same for the same question about the same files.
        spec: what is asked.
        images: how many images were selected.
        population: how many there are to select from.
        shard_images: how many of them make a shard.
        costly_images: how many make a shard of the conditions, by their places, of which fewer do.
        classes: how many classes the data set has.
        matches: how the data set's classes were found among each model's.
        sources: for each model, others of the same classes and sizes whose adversarial images are tried on it, with the hash of
            what decides their answers: of the same evaluation, else of the zoo.
        dataset_sha256: content of the data set.
        model_sha256: what decides each model's answers, see `Catalog.model_sha256`.
        skipped: broken pictures that were left out; empty unless that was asked for.
        claimed_accuracy: of the models whose card claims a clean accuracy on this data set.
        other_claims: of the models whose card claims one on other data, with what it says of them.
        randomised: models that are, as the specification or their card says; whether others are is seen once they are loaded.
    """

    id: str
    spec: EvaluationSpec
    images: int
    population: int = 0
    shard_images: int = SHARD_IMAGES
    costly_images: dict[int, int] = {}
    classes: int
    matches: dict[str, ClassMatch]
    sources: dict[str, dict[str, str]] = {}
    dataset_sha256: str
    model_sha256: dict[str, str]
    skipped: tuple[BrokenPicture, ...] = ()
    claimed_accuracy: dict[str, float] = {}
    other_claims: dict[str, tuple[float, str]] = {}
    randomised: Annotated[tuple[str, ...], Field(exclude_if=lambda models: not models)] = ()

    @property
    def broken(self) -> frozenset[int]:
        """Indices of the broken pictures that were left out."""
        return frozenset(each.index for each in self.skipped)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in the order in which they are best run: a model is loaded once."""
        return [shard for whole in self.wholes for shard in self.cut(whole)[0]]

    @property
    def wholes(self) -> list[Shard]:
        """Every model under every condition on all images, in the order of the shards into which they are cut."""
        return [
            Shard(model=model, condition=condition, start=0, stop=self.images)
            for model in self.spec.models
            for condition in range(len(self.spec.conditions))
        ]

    def shards_of(self, model: str, condition: int) -> list[Shard]:
        """The shards of one model and condition, in order."""
        return self.cut(Shard(model=model, condition=condition, start=0, stop=self.images))[0]

    def cut(self, part: Shard, most: int | None = None) -> tuple[list[Shard], Shard | None]:
        """Cut shards, at most so many, off a part that begins where a shard begins; returns them, and what is left."""
        starts = range(part.start, part.stop, self._images_of(part.condition))
        ends = [*starts[1:], part.stop]
        shards = [
            part.model_copy(update={"start": start, "stop": stop})
            for start, stop in zip(starts[:most], ends[:most], strict=True)
        ]
        left = starts[len(shards) :]
        return shards, part.model_copy(update={"start": left.start}) if left else None

    def count(self, part: Shard) -> int:
        """Into how many shards a part is cut."""
        return ceil(part.images / self._images_of(part.condition))

    def has(self, shard: Shard) -> bool:
        """Whether a shard is one of this plan's."""
        known = shard.model in self.spec.models and 0 <= shard.condition < len(self.spec.conditions)
        starts = range(0, self.images, self._images_of(shard.condition))
        return known and shard.start in starts and shard == self._shard(shard.model, shard.condition, shard.start)

    def following(self, shard: Shard, steps: int = 1) -> Shard | None:
        """The shard that comes so many steps after another; None if it is another model's."""
        start = shard.start
        for condition in range(shard.condition, len(self.spec.conditions)):
            size = self._images_of(condition)
            left = ceil((self.images - start) / size)
            if steps < left:
                return self._shard(shard.model, condition, start + steps * size)
            steps, start = steps - left, 0
        return None

    def _images_of(self, condition: int) -> int:
        return self.costly_images.get(condition, self.shard_images)

    def _shard(self, model: str, condition: int, start: int) -> Shard:
        stop = min(start + self._images_of(condition), self.images)
        return Shard(model=model, condition=condition, start=start, stop=stop)

    @property
    def passes(self) -> int:
        """Passes of an image through a model that all of it may take, see `EvaluationSpec.passes`."""
        return sum(map(self.passes_of, self.wholes))

    def passes_of(self, part: Shard) -> int:
        """Passes of an image through its model that a part may take."""
        condition = self.spec.conditions[part.condition]
        return part.images * self.spec.passes(condition, randomised=part.model in self.randomised)

    def columns(self, model: str) -> tuple[int, ...] | None:
        """The logits of a model that are looked at; None for all."""
        return self.matches[model].columns if self.spec.logits == "dataset" else None

    def choices(self, model: str) -> int:
        """Among how many classes a model chooses."""
        match = self.matches[model]
        return len(match.columns) if self.spec.logits == "dataset" else match.model_classes

    def address(self, shard: Shard) -> str:
        """Hash of all that decides a shard's result but the number of its images: whatever it was computed for, it is the same.

        The selection of images begins alike for any number of them, so a larger one holds the shards of a smaller one, and of two
        shards at one address the longer begins with the images of the shorter. What is checked once per model comes with its first
        condition, and with the first that attacks.
        """
        checks = (shard.condition == 0, shard.condition in self.spec.attacking[:1]) if shard.start == 0 else ()
        return self._address(shard, self.spec.conditions[shard.condition], checks)

    def _sources(self, shard: Shard, condition: Condition) -> list[str]:
        """Hashes of the models whose adversarial images are tried in a shard."""
        return [*self.sources.get(shard.model, {}).values()] if shard.start == 0 and checked_attack(condition) else []

    def resumable_addresses(self, shard: Shard) -> Iterator[str]:
        """Addresses of the results from which a shard can resume: its own, and those of the shorter cascades it begins with."""
        condition = self.spec.conditions[shard.condition]
        shorter = condition.shorter_cascades if isinstance(condition, AdversarialCondition) else ()
        for each in (condition, *shorter):
            for checks in itertools.product((False, True), repeat=2) if shard.start == 0 else [()]:
                yield self._address(shard, each, checks)

    def _address(self, shard: Shard, condition: Condition, checks: tuple[bool, ...]) -> str:
        spec = self.spec
        content = {
            "version": code_version(),
            "model": self.model_sha256[shard.model],
            "dataset": self.dataset_sha256,
            "condition": condition.model_dump(mode="json"),
            "precision": spec.precision,
            "seed": spec.seed,
            "selection_seed": spec.selection_seed,
            "classes": self.matches[shard.model].sha256,
            "logits": spec.logits,
            "start": shard.start,
            "sources": self._sources(shard, condition),
            "checks": checks,
            **spec.model_dump(mode="json", include={"randomised", "eot_passes", "judged_passes"}),  # nothing by default
        }
        if spec.claim is not None:
            content["drawn"] = "at random"
        return text_sha256(canonical_json(content))


def make_plan(
    spec: EvaluationSpec, catalog: Catalog, *, device: str = "cpu", on_look: OnLook = lambda done, total: None
) -> Plan:
    """Check that everything a specification names exists and fits together, to the last picture.

    Args:
        spec: what is asked.
        catalog: where names are looked up.
        device: where it is to be computed; what comes of it is the same anywhere.
        on_look: called as pictures are looked at that were not before; in a large data set this takes a while.

    Raises:
        UnknownNameError: there is no such model or data set.
        CheckpointError: a checkpoint cannot be loaded.
        DatasetError: the data set cannot be read, has too few images, broken ones, or classes that a model does not have.
    """
    dataset = catalog.open_dataset(spec.dataset)
    cards = {model: catalog.verified_card(model) for model in spec.models}
    matches = {model: match_classes(card.classes, dataset, model, spec.class_map) for model, card in cards.items()}
    chosen, skipped = select_usable(
        dataset,
        spec.images,
        spec.selection_seed,
        on_broken=spec.on_broken,
        evenly=spec.claim is None,
        preprocessings=[card.preprocessing for card in cards.values()],
        on_look=on_look,
    )
    model_sha256 = {model: catalog.model_sha256(model) for model in spec.models}
    identity = {
        "spec": spec.model_dump(mode="json"),
        "dataset": dataset.sha256,
        "models": model_sha256,
        "classes": {model: match.sha256 for model, match in matches.items()},
    }
    on_gpu = device.startswith("cuda")
    randomised = [model for model, card in cards.items() if spec.treats_as_randomised(card.randomised)]
    shard_images = GPU_SHARD_IMAGES if on_gpu else SHARD_IMAGES
    return Plan(
        id=text_sha256(canonical_json(identity))[:16],
        spec=spec,
        images=len(chosen),
        population=len(dataset) - len(skipped),
        shard_images=shard_images,
        costly_images=_costly_images(
            spec, shard_images, GPU_SHARD_PASSES if on_gpu else SHARD_PASSES, randomised=bool(randomised)
        ),
        classes=len(dataset.classes),
        matches=matches,
        sources={model: _sources(model, cards, catalog) for model in spec.models},
        dataset_sha256=dataset.sha256,
        model_sha256=model_sha256,
        skipped=skipped,
        claimed_accuracy={
            model: card.clean_accuracy
            for model, card in cards.items()
            if card.clean_accuracy is not None and spec.dataset in card.clean_accuracy_on.split()
        },
        other_claims={
            model: (card.clean_accuracy, card.clean_accuracy_on)
            for model, card in cards.items()
            if card.clean_accuracy is not None and spec.dataset not in card.clean_accuracy_on.split()
        },
        randomised=tuple(randomised),
    )


def _costly_images(spec: EvaluationSpec, shard_images: int, passes: int, *, randomised: bool) -> dict[int, int]:
    """Cut shards of conditions that would take more passes smaller, down to a single image; `randomised` if any model is."""
    most = {place: passes // spec.passes(each, randomised=randomised) for place, each in enumerate(spec.conditions)}
    return {place: max(1, images) for place, images in most.items() if images < shard_images}


def _sources(model: str, cards: Mapping[str, models.ModelCard], catalog: Catalog) -> dict[str, str]:
    """Choose other models of the same classes and sizes, of the evaluation first, then of the zoo."""
    found = catalog.checkpoints()
    zoo = [name for name, each in found.items() if each.path.parent == models.ZOO and each.twin is None]
    chosen: list[str] = []
    for name in dict.fromkeys([*cards, *zoo]):
        card = cards[name] if name in cards else found[name].card()
        if name != model and len(chosen) < TRANSFER_SOURCES and _alike(card, cards[model]):
            chosen.append(name)
    return {name: catalog.model_sha256(name) for name in chosen}


def _alike(card: models.ModelCard, other: models.ModelCard) -> bool:
    same_size = (card.preprocessing.resize, card.preprocessing.crop) == (
        other.preprocessing.resize,
        other.preprocessing.crop,
    )
    return same_size and set(card.classes) == set(other.classes) and card.architecture not in models.OPAQUE
