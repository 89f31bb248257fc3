"""From a checkpoint file to a model that can be used: recognised, asked about, written with its card, tried once."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from common import describe_validation, file_sha256
from models.card import ModelCard
from models.checkpoints import Checkpoint, load
from models.classifier import Classifier
from models.macs import complexity
from models.opaque import OPAQUE, OpaqueError, check_opaque, load_opaque
from models.preprocess import Preprocessing
from models.recognition.hub import checkpoint_file, read_config
from models.recognition.likely_preprocessing import likely_preprocessing
from models.recognition.proposals import Question
from models.recognition.recognise import Recognised, UnrecognisedError, count_classes, differences, layout, recognise
from models.registry import defaults, without_defaults
from models.state_dicts import CheckpointError, Fact, read_checkpoint, require_size, require_suffix, unprefixed

Given = Mapping[str, object]

_PICTURE_QUESTIONS = {
    "resize": ("how pictures were resized leaves no trace in the weights", "pixels, 1 to 4096"),
    "crop": ("the size of the images leaves no trace in the weights", "pixels, 1 to resize"),
    "interpolation": ("how pictures were resized leaves no trace in the weights", "bilinear or bicubic"),
    "mean": ("what was subtracted leaves no trace in the weights", "three numbers on the [0, 1] scale"),
    "std": ("what was divided by leaves no trace in the weights", "three numbers on the [0, 1] scale"),
}


_WEIGHTS_QUESTION = Question(
    "weights",
    "the file has the weights as they were trained (plain) and their moving average (ema); accuracies are usually reported of the "
    "average, and timm loads it",
    "ema",
    "plain or ema",
)


class NameTakenError(CheckpointError):
    """There is a model of that name already."""


@dataclass(frozen=True)
class Draft:
    """What is known of a checkpoint before it is added.

    Attributes:
        card: complete, with the likely answer to every question.
        options: those of the card that differ from the architecture's defaults.
        questions: those that nobody has answered.
        facts: numbers and short texts stored beside the weights, such as the epoch.
    """

    card: ModelCard
    options: dict[str, object]
    questions: tuple[Question, ...]
    facts: dict[str, Fact]


class QuestionsError(CheckpointError):
    """A checkpoint does not tell all that must be known; `draft` has the questions and the likely answers."""

    def __init__(self, file: str, draft: Draft) -> None:
        asked = "; ".join(f"{each.field} (likely {each.likely}): {each.why}" for each in draft.questions)
        super().__init__(
            f"{file} is {draft.card.architecture}, but does not tell {asked}. Answer, or accept what is likely"
        )
        self.draft = draft


@dataclass(frozen=True)
class Added:
    """A model that was added.

    Attributes:
        checkpoint: its file and its name.
        card: its card.
        assumed: likely answers that were taken.
        facts: numbers and short texts stored beside the weights.
        parameters: learned numbers.
        macs: multiplications for one image; None where a graph hides them.
        input_shape: (C, H, W) of what it takes.
    """

    checkpoint: Checkpoint
    card: ModelCard
    assumed: tuple[Question, ...]
    facts: dict[str, Fact]
    parameters: int
    macs: int | None
    input_shape: tuple[int, int, int]


def draft(path: Path, given: Given | None = None) -> Draft:
    """Find out what a checkpoint file is; it is read, not executed.

    Args:
        path: of the file, or of a folder of the hub with one.
            It is executed only if the given architecture says that it brings its own graph (see `models.opaque`).
        given: fields of its card that are known, also some of those of `options` and `preprocessing` alone.

    Raises:
        UnrecognisedError: its tensors fit no architecture.
        CheckpointError: it cannot be read, does not fit the given architecture, or a given field is wrong.
    """
    path = checkpoint_file(path)
    told = read_config(path.parent)
    given = {name: value for name, value in told.items() if name == "architecture"} | dict(given or {})
    options, pictures = _mapping(given, "options"), _mapping(given, "preprocessing")
    found, facts = _identify(path, given, options)
    asked = found.questions
    answered = {*given, *(f"options.{name}" for name in options), *(f"preprocessing.{name}" for name in pictures)}
    given = {each.field: each.likely for each in asked if "." not in each.field} | given
    expected = found.options | {
        each.field.removeprefix("options."): each.likely for each in asked if each.field.startswith("options.")
    }
    described = expected | options
    unusual = {name: value for name, value in options.items() if _plain(value) != _plain(expected.get(name))}
    deciding = without_defaults(found.architecture, found.options | unusual)
    known = {"crop"} if _is_sized(found.architecture, described) else set[str]()
    usual: dict[str, Any] = (
        told.get("preprocessing") or likely_preprocessing(found.architecture, described).model_dump()
    )
    if len(told.get("classes", ())) == found.num_classes:
        given = {"classes": told["classes"]} | given
        answered.add("classes")
    asked += tuple(
        Question(f"preprocessing.{name}", why, _plain(usual[name]), allowed)
        for name, (why, allowed) in _PICTURE_QUESTIONS.items()
        if name not in known and "preprocessing" not in told
    )
    asked += (_classes_question(found.num_classes),)
    card = _card({
        **given,
        "architecture": found.architecture,
        "options": described,
        "preprocessing": _fitting(usual, pictures),
        "classes": given.get("classes", tuple(f"class_{index}" for index in range(found.num_classes))),
    })  # fmt: skip
    if len(card.classes) != found.num_classes:
        raise CheckpointError(f"classes: {len(card.classes)} names given, {path.name} has {found.num_classes} classes")
    return Draft(card, deciding, tuple(each for each in asked if each.field not in answered), facts)


def _mapping(given: Given, field: str) -> dict[str, Any]:
    value = given.get(field, {})
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{field}: expected names and values, got {value!r}")
    return {str(name): each for name, each in cast(Mapping[object, object], value).items()}


def _plain(value: object) -> object:
    return list(cast(tuple[object, ...], value)) if isinstance(value, tuple) else value


def _fitting(usual: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge preprocessing; a side given alone moves a likely one that does not go with it."""
    if "crop" in given and "resize" not in given:
        usual = {**usual, "resize": max(usual["resize"], given["crop"])} if isinstance(given["crop"], int) else usual
    elif isinstance(given.get("resize"), int):
        usual = {**usual, "crop": min(usual["crop"], given["resize"])}
    return usual | given


def _card(fields: dict[str, object]) -> ModelCard:
    try:
        return ModelCard.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(f"the card is not usable: {describe_validation(error)}") from error


def _identify(path: Path, given: Given, options: dict[str, Any]) -> tuple[Recognised, dict[str, Fact]]:
    architecture = given.get("architecture")
    if isinstance(architecture, str) and architecture in OPAQUE:
        return _identify_opaque(path, architecture, _mapping(given, "preprocessing")), {}
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path.name} brings its own graph: that is used only if its architecture is given as torch_export"
        )
    contents = read_checkpoint(path)
    both = len(contents.weights) > 1
    tensors = contents.choose(given.get("weights", _WEIGHTS_QUESTION.likely if both else None))
    found = _identify_tensors(path.name, tensors, architecture, options)
    asked = ((_WEIGHTS_QUESTION,) if both else ()) + found.questions
    return replace(found, questions=asked), contents.facts


def _identify_tensors(file: str, tensors: Mapping[str, Tensor], architecture: object, options: Given) -> Recognised:
    if architecture is None:
        return recognise(tensors)
    try:
        found = recognise(tensors)
        if found.architecture == architecture:
            return found
    except UnrecognisedError:
        pass  # of another library, perhaps: its name is given
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return _identify_named(file, shapes, str(architecture), options)


def _identify_opaque(path: Path, architecture: str, pictures: dict[str, Any]) -> Recognised:
    require_size(path)
    side = pictures.get("crop", Preprocessing().crop)
    if not isinstance(side, int):
        raise CheckpointError(f"preprocessing.crop: expected pixels, got {side!r}")
    try:
        return Recognised(architecture, {}, check_opaque(load_opaque(architecture, path), side))
    except OpaqueError as error:
        raise CheckpointError(f"{path.name}: {error}") from error


def _identify_named(file: str, shapes: dict[str, tuple[int, ...]], architecture: str, options: Given) -> Recognised:
    try:
        own = layout(architecture, options, 2)
        shapes = max(unprefixed(shapes), key=lambda form: len(form.keys() & own.keys()))
        classes = count_classes(shapes, architecture, options)
        found = differences(shapes, architecture, layout(architecture, options, classes))
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"architecture {architecture!r} with options {dict(options)}: {error}") from error
    if found.missing or found.unexpected or found.shapes:
        raise CheckpointError(f"{file} does not fit {found}")
    return Recognised(architecture, dict(options), classes)


def _classes_question(count: int) -> Question:
    order = " in ImageNet's order" if count == 1000 else ""
    likely = f"class_0 to class_{count - 1}{order}"
    return Question("classes", "the file has no names of classes", likely, f"{count} names in the order of the logits")


def _is_sized(architecture: str, options: Given) -> bool:
    """Whether the network takes images of one size only."""
    full = defaults(architecture) | dict(options)
    return "image_size" in full and full.get("positions", "relative") == "relative"


def add(path: Path, folder: Path, name: str, given: Given | None = None, *, accept_likely: bool = False) -> Added:
    """Add a checkpoint to a folder, after it has been loaded and has classified an image.

    Args:
        path: of the file, or of a folder of the hub with one; it is copied, or linked if it lies in the folder already.
        folder: made if need be.
        name: of the model, and of its files without their endings.
        given: fields of its card that are known.
        accept_likely: take the likely answers to questions that are open.

    Raises:
        QuestionsError: there are such questions.
        NameTakenError: the folder has a model of that name.
        CheckpointError: as for `draft`, or the model does not work.
    """
    path = checkpoint_file(path)
    require_suffix(path.name)
    found = draft(path, given)
    if found.questions and not accept_likely:
        raise QuestionsError(path.name, found)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder) as staging:
        staged = Checkpoint(name, Path(staging) / f"{name}{path.suffix}")
        _copy(path, staged.path, folder)
        sha256 = found.card.sha256 or file_sha256(staged.path)
        card = found.card.model_copy(update={"sha256": sha256, "options": found.options})
        staged.card_path.write_text(card.model_dump_json(indent=2) + "\n")
        classifier = load(staged.path)
        _require_works(classifier, path.name)
        published = _publish(staged, folder, path)
    return _report(published, classifier, found)


def _copy(source: Path, target: Path, folder: Path) -> None:
    if folder.resolve() in source.resolve().parents:
        target.hardlink_to(source)
    else:
        shutil.copyfile(source, target)


def _require_works(classifier: Classifier, file: str) -> None:
    card = classifier.card
    images = torch.zeros(1, 3, card.preprocessing.crop, card.preprocessing.crop)
    try:
        with torch.inference_mode():
            logits = classifier(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"{file} cannot classify images of {tuple(images.shape)}: {error}") from error
    if logits.shape != (1, len(card.classes)) or not bool(logits.isfinite().all()):
        raise CheckpointError(f"{file} gives logits {tuple(logits.shape)} with values that are not finite, or too many")


def _publish(staged: Checkpoint, folder: Path, source: Path) -> Checkpoint:
    """Give the files their places, the weights first: a checkpoint is found by its card. Neither replaces another file."""
    final = Checkpoint(staged.name, folder / staged.path.name)
    in_place = final.path.exists() and final.path.samefile(source)
    try:
        if not in_place:
            os.link(staged.path, final.path)
        try:
            os.link(staged.card_path, final.card_path)
        except FileExistsError:
            if not in_place:
                final.path.unlink()
            raise
    except FileExistsError:
        raise NameTakenError(f"{folder} has files named {staged.name} already; choose another name") from None
    return final


def _report(checkpoint: Checkpoint, classifier: Classifier, found: Draft) -> Added:
    card, network = classifier.card, classifier.network
    shape = (3, card.preprocessing.crop, card.preprocessing.crop)
    parameters = sum(each.numel() for each in network.parameters())
    macs = None if card.architecture in OPAQUE else complexity(network, shape).macs
    return Added(checkpoint, classifier.card, found.questions, found.facts, parameters, macs, shape)
