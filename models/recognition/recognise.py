"""Recognises the architecture of a checkpoint from the names and shapes of its tensors alone.

Each family reads its options from the shapes (`Family.propose`). The network it proposes is built without memory and must have
exactly the tensors of the file. An option that shapes do not determine becomes a question with a likely answer.
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
"""A number of classes that no other dimension of an architecture has."""


@dataclass(frozen=True)
class Recognised:
    """An architecture whose tensors are exactly those of a file.

    Attributes:
        architecture: a name that `create` accepts.
        options: those that differ from the architecture's defaults.
        num_classes: number of logits.
        questions: about options that shapes do not determine.
    """

    architecture: str
    options: Options
    num_classes: int
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Differences:
    """How a file's tensors differ from an architecture's.

    Attributes:
        architecture: the one that was compared.
        share: fraction of all names that have equal shapes in both.
        missing: names that only the architecture has.
        unexpected: names that only the file has.
        shapes: names whose shapes differ, each with both shapes.
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
    """A file's tensors belong to no known architecture; `nearest` describes how they differ from the nearest one."""

    def __init__(self, nearest: Differences) -> None:
        super().__init__(
            f"the tensors fit no architecture of this package, of torchvision or of timm. The nearest is {nearest}"
        )
        self.nearest = nearest


def recognise(tensors: Mapping[str, Tensor]) -> Recognised:
    """Infer architecture, options and number of classes from the names and shapes of a state dict.

    A prefix that all names share, such as `module.`, is ignored.

    Raises:
        UnrecognisedError: the tensors fit no architecture.
        CheckpointError: the tensors are those of a timm model, and timm is not installed.
    """
    forms = [Layout(form) for form in unprefixed({name: tuple(value.shape) for name, value in tensors.items()})]
    for shapes in forms:
        ours, others = _of_families(shapes), same_tensors(shapes)
        if found := next(iter(ours), None) or _of_libraries(others):
            same = [*(each.architecture for each in ours[1:]), *others]
            return replace(found, questions=(*found.questions, *_other_functions(found.architecture, same)))
    raise UnrecognisedError(max(map(nearest, forms), key=lambda found: found.share))


def _of_families(shapes: Layout) -> list[Recognised]:
    """Take the first proposal of each family that fits."""
    found = (_of_family(family.propose, shapes) for family in families() if family.propose)
    return [each for each in found if each]


def _of_family(propose: Propose, shapes: Layout) -> Recognised | None:
    for candidate in _candidates(propose, shapes):
        classes = next(iter(shapes.get(candidate.head, ())), 0)
        if fits(shapes, candidate.architecture, candidate.options, classes):
            return Recognised(candidate.architecture, candidate.options, classes, candidate.questions)
    return None


def _of_libraries(found: Mapping[str, int]) -> Recognised | None:
    """Choose the plainest of the models that have these tensors; loading the checkpoint builds and compares it."""
    if not found:
        return None
    name = min(found, key=lambda each: (not each.startswith("torchvision:"), len(each)))
    try:
        spec(name)
    except ValueError as error:
        raise CheckpointError(f"the tensors are those of {', '.join(found)}: {error}") from error
    return Recognised(name, {}, found[name])


def _other_functions(architecture: str, same: Iterable[str]) -> tuple[Question, ...]:
    """Ask which model it is, if models of other names have the same tensors but may compute something else."""
    plain = architecture.rpartition(":")[2]
    others = [name for name in same if name.rpartition(":")[2] != plain]
    if not others:
        return ()
    why = (
        f"the tensors also fit {', '.join(others)}. Tensors do not show blurred or dilated strides, the stride of a stage, "
        "max-pooling in the stem or the activation. A wrong answer lowers the accuracy: an evaluation compares its result with "
        "the card's clean_accuracy if clean_accuracy_on names the same data"
    )
    return (Question("architecture", why, architecture, " or ".join((architecture, *others))),)


def _candidates(propose: Propose, shapes: Layout) -> Iterator[Candidate]:
    try:
        yield from propose(shapes)
    except NotMineError:
        return


def layout(architecture: str, options: Mapping[str, object], num_classes: int) -> dict[str, Shape]:
    """Compute the shapes of an architecture's tensors, without batch counters, which some files lack.

    Raises:
        ValueError, TypeError: the architecture cannot be built with these options.
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
    """Whether an architecture has exactly these tensors; not if it refuses the options."""
    try:
        return layout(architecture, options, num_classes) == _without_counters(shapes)
    except ValueError:
        return False


def count_classes(shapes: Shapes, architecture: str, options: Mapping[str, object]) -> int:
    """Read the number of classes from the tensors whose shapes depend on it in a given architecture.

    Raises:
        CheckpointError: the file has no such tensor.
        ValueError, TypeError: the architecture cannot be built with these options.
    """
    two, three = (layout(architecture, options, classes) for classes in (2, 3))
    for name, shape in two.items():
        changed = [axis for axis, (a, b) in enumerate(zip(shape, three[name], strict=True)) if a != b]
        if len(changed) == 1 and len(shapes.get(name, ())) == len(shape) and shape[changed[0]] == 2:
            return max(1, shapes[name][changed[0]])
    raise CheckpointError(
        f"the number of classes is unknown: no tensor of the file matches the last layer of {architecture}"
    )


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
