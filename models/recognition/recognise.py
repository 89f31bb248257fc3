"""Which architecture a checkpoint's tensors belong to, told from their names and shapes alone.

Each family reads its options off the shapes (`Family.propose`); the network so described, built without memory, must have exactly
the tensors of the file. What leaves no trace in shapes becomes a question with a likely answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from models.recognition.fingerprints import same_tensors
from models.recognition.layout import Layout, NotMineError, Shape
from models.recognition.proposals import Candidate, Options, Question
from models.registry import Propose, create, families, names, spec
from models.state_dicts import CheckpointError, listed, unprefixed

Shapes = Mapping[str, Shape]

_MARK = 999_983
"""A number of classes that is no other number of an architecture."""


@dataclass(frozen=True)
class Recognised:
    """An architecture whose tensors are exactly those of a file.

    Attributes:
        architecture: a name that `create` knows.
        options: where they differ from the architecture's defaults.
        num_classes: number of logits.
        questions: what shapes do not tell of the options.
    """

    architecture: str
    options: Options
    num_classes: int
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Differences:
    """How a file's tensors differ from an architecture's.

    Attributes:
        architecture: the one compared with.
        share: of all names, those with equal shapes, fraction.
        missing: names that only the architecture has.
        unexpected: names that only the file has.
        shapes: names that both have with different shapes, each with the two.
    """

    architecture: str
    share: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]

    def __str__(self) -> str:
        groups = {"missing": self.missing, "unexpected": self.unexpected, "other shapes": self.shapes}
        facts = [f"{what} ({len(keys)}): {listed(keys)}" for what, keys in groups.items() if keys]
        return f"{self.architecture}, which shares {100 * self.share:.0f} % of the tensors; {'; '.join(facts)}"


class UnrecognisedError(CheckpointError):
    """A file's tensors belong to no architecture; `nearest` says how they differ from the one that is nearest."""

    def __init__(self, nearest: Differences) -> None:
        super().__init__(
            f"the tensors fit no architecture, and none of torchvision's or timm's classifiers. The nearest is {nearest}"
        )
        self.nearest = nearest


def recognise(tensors: Mapping[str, Tensor]) -> Recognised:
    """Infer architecture, options and number of classes from the names and shapes of a state dict.

    Leading parts that all names share, such as `module.`, may be left from training.

    Raises:
        UnrecognisedError: they fit no architecture.
        CheckpointError: they are those of a model of timm, which is not installed.
    """
    forms = [Layout(form) for form in unprefixed({name: tuple(value.shape) for name, value in tensors.items()})]
    for shapes in forms:
        ours, others = _of_families(shapes), same_tensors(shapes)
        if found := next(iter(ours), None) or _of_libraries(others):
            same = [*(each.architecture for each in ours[1:]), *others]
            return replace(found, questions=(*found.questions, *_other_functions(found.architecture, same)))
    raise UnrecognisedError(max(map(nearest, forms), key=lambda found: found.share))


def _of_families(shapes: Layout) -> list[Recognised]:
    """Take what each family proposes first of all that fits."""
    found = (_of_family(family.propose, shapes) for family in families() if family.propose)
    return [each for each in found if each]


def _of_family(propose: Propose, shapes: Layout) -> Recognised | None:
    for candidate in _candidates(propose, shapes):
        classes = next(iter(shapes.get(candidate.head, ())), 0)
        if fits(shapes, candidate.architecture, candidate.options, classes):
            return Recognised(candidate.architecture, candidate.options, classes, candidate.questions)
    return None


def _of_libraries(found: Mapping[str, int]) -> Recognised | None:
    """Take the plainest of the models that have the tensors; it is built and compared when the checkpoint is loaded."""
    if not found:
        return None
    name = min(found, key=lambda each: (not each.startswith("torchvision:"), len(each)))
    try:
        spec(name)
    except ValueError as error:
        raise CheckpointError(f"the tensors are those of {', '.join(found)}: {error}") from error
    return Recognised(name, {}, found[name])


def _other_functions(architecture: str, same: Iterable[str]) -> tuple[Question, ...]:
    """Ask which it is, where models of other names have the same tensors and need not compute the same."""
    plain = architecture.rpartition(":")[2]
    others = [name for name in same if name.rpartition(":")[2] != plain]
    if not others:
        return ()
    why = (
        f"the tensors also fit these: {', '.join(others)}; which is it? Blurred or dilated strides, another stride of a stage, a "
        "stem without max-pooling or another activation leave no trace in them. A wrong answer shows as a loss of accuracy: an "
        "evaluation compares what it measures with the card's clean_accuracy where clean_accuracy_on names its data"
    )
    return (Question("architecture", why, architecture, " or ".join((architecture, *others))),)


def _candidates(propose: Propose, shapes: Layout) -> Iterator[Candidate]:
    try:
        yield from propose(shapes)
    except NotMineError:
        return


def layout(architecture: str, options: Mapping[str, object], num_classes: int) -> dict[str, Shape]:
    """Shapes of an architecture's tensors; batch counters, which some files lack, are left out.

    Raises:
        ValueError, TypeError: it cannot be built with these options.
    """
    with torch.device("meta"):
        network = create(architecture, num_classes=num_classes, **options)
    return _without_counters({name: tuple(value.shape) for name, value in network.state_dict().items()})


@lru_cache(maxsize=128)
def _default_layout(architecture: str) -> dict[str, Shape]:
    return layout(architecture, {}, _MARK)


def _with_classes(shapes: Shapes, num_classes: int) -> dict[str, Shape]:
    return {name: tuple(num_classes if side == _MARK else side for side in shape) for name, shape in shapes.items()}


def _without_counters(shapes: Shapes) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def fits(shapes: Shapes, architecture: str, options: Mapping[str, object], num_classes: int) -> bool:
    """Whether an architecture has exactly these tensors; one that refuses the options has not."""
    try:
        return layout(architecture, options, num_classes) == _without_counters(shapes)
    except ValueError:
        return False


def count_classes(shapes: Shapes, architecture: str, options: Mapping[str, object]) -> int:
    """Read the number of classes off the tensors whose shapes depend on it in a given architecture.

    Raises:
        CheckpointError: there is no such tensor.
        ValueError, TypeError: the architecture cannot be built with these options.
    """
    two, three = (layout(architecture, options, classes) for classes in (2, 3))
    for name, shape in two.items():
        changed = [axis for axis, (a, b) in enumerate(zip(shape, three[name], strict=True)) if a != b]
        if len(changed) == 1 and len(shapes.get(name, ())) == len(shape) and (shape, three[name])[0][changed[0]] == 2:
            return max(1, shapes[name][changed[0]])
    raise CheckpointError(f"no tensor of the file is the classifier of {architecture}: it tells no number of classes")


def differences(shapes: Shapes, architecture: str, expected: Shapes) -> Differences:
    """Compare a file's tensors with an architecture's."""
    shapes = _without_counters(shapes)
    common = [name for name in expected if name in shapes]
    unequal = [name for name in common if shapes[name] != expected[name]]
    every = len(expected) + len(shapes) - len(common)
    return Differences(
        architecture,
        (len(common) - len(unequal)) / max(1, every),
        tuple(name for name in expected if name not in shapes),
        tuple(name for name in shapes if name not in expected),
        tuple(f"{name}: file {shapes[name]}, architecture {expected[name]}" for name in unequal),
    )


def nearest(shapes: Shapes) -> Differences:
    """Find the architecture with the largest share of equal tensors."""
    matrices = [shape for shape in shapes.values() if len(shape) == 2 and 0 < shape[0] <= 10**6]
    classes = matrices[-1][0] if matrices else 1000
    compared = (differences(shapes, name, _with_classes(_default_layout(name), classes)) for name in names())
    return max(compared, key=lambda found: found.share)
