"""Which logit belongs to each class of a data set: found by a stated rule, or refused; never guessed."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError

from common import canonical_json, describe_validation, text_sha256
from common.validation import Frozen
from evaluation.data.datasets import ImageFolder
from evaluation.data.sources import DatasetError, dataset_name

Rule = Literal["name", "folded name", "WordNet id", "index", "class map"]

ClassMap = dict[str, StrictStr | StrictInt]
"""The model's class, by its name or the index of its logit, for every class of a data set."""

MAP_SUFFIX = ".classes.json"
"""Ending of the file beside a data set that holds its class map: `animals.classes.json` for `animals/` or `animals.zip`."""

_SEPARATORS = re.compile(r"[\W_]+")
_INDEX = re.compile(r"[0-9]{1,9}")
_IMAGENET_IDS = Path(__file__).with_name("imagenet_wordnet_ids.txt")
_LISTED = 8


@lru_cache(64)
def _hash(logits: tuple[int, ...]) -> str:
    return text_sha256(canonical_json(logits))


class ClassMatch(Frozen):
    """How the classes of a data set were found among those of a model.

    Attributes:
        rule: the one that matched.
        logits: index of the logit of each class of the data set, in the data set's order.
        model_classes: number of the model's classes.
    """

    rule: Rule
    logits: tuple[int, ...]
    model_classes: int

    @property
    def sha256(self) -> str:
        """Hash of what decides results: the logits."""
        return _hash(self.logits)

    @property
    def columns(self) -> tuple[int, ...]:
        """The logits of the data set's classes, each once, in the model's order."""
        return tuple(sorted(set(self.logits)))


class ClassMatchError(DatasetError):
    """The classes of a data set cannot be found among those of a model; the message has both lists."""


def match_classes(
    classes: Sequence[str], dataset: ImageFolder, model: str, class_map: ClassMap | None = None
) -> ClassMatch:
    """Find the logit of every class of a data set.

    The rules, the first that finds all classes: a class map (given, or in a JSON file beside the data set), equal names, names
    equal once case and separators are ignored, WordNet ids (for models of ImageNet's 1000 classes), indices of logits. A data
    set may have fewer classes than the model.

    Args:
        classes: the model's, in the order of its logits.
        dataset: whose classes are to be found.
        model: its name, for messages.
        class_map: takes the place of the rules and of the file beside the data set.

    Raises:
        ClassMatchError: no rule finds all of them, or the class map is not usable.
    """
    chosen = _read_beside(dataset.path) if class_map is None else class_map
    if chosen is not None:
        logits = [_mapped(name, chosen, classes, f"{dataset.path.name}: class map") for name in dataset.classes]
        return ClassMatch(rule="class map", logits=tuple(logits), model_classes=len(classes))
    for rule, find in _RULES.items():
        found = find(classes)
        logits = [found.get(name, -1) for name in (_folded(each, rule) for each in dataset.classes)]
        if min(logits) >= 0 and len(set(logits)) == len(logits):
            return ClassMatch(rule=rule, logits=tuple(logits), model_classes=len(classes))
    raise ClassMatchError(_refusal(classes, dataset, model))


def read_class_map(path: Path) -> ClassMap:
    """Read a class map from a JSON file: an object with the data set's classes and the model's, by name or index.

    Raises:
        ClassMatchError: it cannot be read, or is no such object.
    """
    try:
        return TypeAdapter(ClassMap).validate_json(path.read_bytes())
    except OSError as error:
        raise ClassMatchError(f"the class map {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        example = json.dumps({"n02085620": "Chihuahua", "tabby cat": 281})
        raise ClassMatchError(
            f"the class map {path} is not usable: {describe_validation(error)}; expected such as {example}"
        ) from error


def _read_beside(dataset: Path) -> ClassMap | None:
    path = dataset.with_name(dataset_name(dataset) + MAP_SUFFIX)
    return read_class_map(path) if path.is_file() else None


def _mapped(name: str, class_map: ClassMap, classes: Sequence[str], where: str) -> int:
    if name not in class_map:
        raise ClassMatchError(f"{where} has no entry for {name!r}; it has {_listed(class_map)}")
    target = class_map[name]
    if isinstance(target, int):
        if not 0 <= target < len(classes):
            raise ClassMatchError(f"{where}: {name!r} is given logit {target}; the model has 0 to {len(classes) - 1}")
        return target
    if classes.count(target) != 1:
        count = classes.count(target)
        raise ClassMatchError(
            f"{where}: {name!r} is given {target!r}, of which the model has {count or 'none'}; it has {_listed(classes)}"
        )
    return classes.index(target)


def _folded(name: str, rule: Rule) -> str:
    """The name as a rule compares it."""
    if rule == "folded name":
        return _SEPARATORS.sub("", name.casefold())
    return str(int(name)) if rule == "index" and _INDEX.fullmatch(name) else name


def _once(names: Sequence[str]) -> dict[str, int]:
    """Index of each name that occurs once; a name that occurs twice identifies nothing."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _by_folded_name(classes: Sequence[str]) -> Mapping[str, int]:
    return _once([_folded(name, "folded name") for name in classes])


def _by_wordnet_id(classes: Sequence[str]) -> Mapping[str, int]:
    """ImageNet's ids, for models with its classes: named as torchvision names them, or numbered."""
    if len(classes) != len(imagenet_ids()):
        return {}
    numbered = [f"class_{index}" for index in range(len(classes))]
    names = [_folded(name, "folded name") for name in _imagenet_names()]
    if [*classes] == numbered or [_folded(name, "folded name") for name in classes] == names:
        return _once(imagenet_ids())
    return {}


def _by_index(classes: Sequence[str]) -> Mapping[str, int]:
    """Numbers as indices of logits, unless the model's own names are numbers: then those must match by name."""
    if any(_INDEX.fullmatch(name) for name in classes):
        return {}
    return {str(index): index for index in range(len(classes))}


_RULES: dict[Rule, Callable[[Sequence[str]], Mapping[str, int]]] = {
    "name": _once,
    "folded name": _by_folded_name,
    "WordNet id": _by_wordnet_id,
    "index": _by_index,
}


@cache
def imagenet_ids() -> tuple[str, ...]:
    """WordNet ids of the 1000 classes of ILSVRC 2012 in the order of their logits, which is that of the ids."""
    return tuple(_IMAGENET_IDS.read_text().split())


@cache
def _imagenet_names() -> tuple[str, ...]:
    from torchvision.models import get_model_weights  # noqa: PLC0415  # it takes seconds

    weights: Any = get_model_weights("resnet18")
    return tuple(weights.DEFAULT.meta["categories"])


def _refusal(classes: Sequence[str], dataset: ImageFolder, model: str) -> str:
    there = _by_folded_name(classes)
    unknown = [name for name in dataset.classes if _folded(name, "folded name") not in there]
    return (
        f"the classes of {dataset.path.name} are not those of {model}, neither by name nor by number. "
        f"{dataset.path.name} has {len(dataset.classes)}: {_listed(dataset.classes)}; "
        f"{model} has {len(classes)}: {_listed(classes)}; "
        f"not found among the model's: {_listed(unknown) or 'none, but some names are there twice'}. "
        f"Give a class map (--class-map FILE, class_map, or {dataset_name(dataset.path)}{MAP_SUFFIX} beside the "
        "data set) with the model's class for each of the data set's"
    )


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    shown = [*names]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more
