"""What a data set holds, and whether a model can be evaluated on it: answered before an evaluation is planned."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Self

from common.cores import cores
from common.pictures import PictureError, picture_size
from common.validation import Frozen
from evaluation.data.broken import BrokenPicture, OnLook, find_broken
from evaluation.data.classes import ClassMap, ClassMatchError, Rule, match_classes
from evaluation.data.datasets import ImageFolder
from evaluation.data.sources import DatasetError


class Spread(Frozen):
    """Smallest, middle and largest of some lengths, in pixels."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Summarise at least one length."""
        return cls(min=min(lengths), median=median(lengths), max=max(lengths))

    def __str__(self) -> str:
        return f"{self.min} / {self.median:g} / {self.max}"


class Matched(Frozen):
    """How the classes of the data set were found among a model's.

    Attributes:
        model: its name.
        rule: the one that matched; None if none did.
        classes: the model's class for each of the data set's.
        problem: why they were not found; None if they were.
    """

    model: str
    rule: Rule | None = None
    classes: dict[str, str] = {}
    problem: str | None = None


class DatasetCheck(Frozen):
    """What a data set holds.

    Attributes:
        name: of the data set.
        images: how many pictures, broken ones among them.
        sha256: of its content.
        classes: how many pictures each class has.
        width: of the pictures that can be read, upright.
        height: likewise; both are None if none can be read.
        broken: pictures that cannot be used, and why.
        ignored: how many files are no pictures, by their names.
        match: how its classes were found among a model's, if one was given.
    """

    name: str
    images: int
    sha256: str
    classes: dict[str, int]
    width: Spread | None
    height: Spread | None
    broken: tuple[BrokenPicture, ...]
    ignored: int
    match: Matched | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is broken, and the classes are the model's if one was given."""
        return not self.broken and not (self.match and self.match.problem)


def check_dataset(
    name: str, dataset: ImageFolder, match: Matched | None = None, *, on_look: OnLook = lambda done, total: None
) -> DatasetCheck:
    """Look at all pictures of a data set.

    Args:
        name: of the data set.
        dataset: whose pictures are looked at.
        match: of its classes with a model's, see `match_with`.
        on_look: called as pictures are looked at.
    """
    broken = find_broken(dataset, range(len(dataset)), on_look=on_look)
    with ThreadPoolExecutor(cores()) as pool:
        sizes = [size for size in pool.map(partial(_size, dataset), range(len(dataset))) if size]
    counts = Counter(dataset.labels)
    return DatasetCheck(
        name=name,
        images=len(dataset),
        sha256=dataset.sha256,
        classes={each: counts[label] for label, each in enumerate(dataset.classes)},
        width=Spread.of([width for width, _ in sizes]) if sizes else None,
        height=Spread.of([height for _, height in sizes]) if sizes else None,
        broken=tuple(broken),
        ignored=len(dataset.ignored),
        match=match,
    )


def match_with(model: str, classes: Sequence[str], dataset: ImageFolder, class_map: ClassMap | None = None) -> Matched:
    """Find the classes of a data set among a model's, or say why they are not there; arguments as of `match_classes`."""
    try:
        found = match_classes(classes, dataset, model, class_map)
    except ClassMatchError as error:
        return Matched(model=model, problem=str(error))
    theirs = (classes[logit] for logit in found.logits)
    return Matched(model=model, rule=found.rule, classes=dict(zip(dataset.classes, theirs, strict=True)))


def _size(dataset: ImageFolder, index: int) -> tuple[int, int] | None:
    try:
        return picture_size(dataset.read(index))
    except (DatasetError, PictureError):
        return None  # it is among the broken ones
