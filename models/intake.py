"""Adds checkpoint files as models: recognises them, asks what they do not contain, writes their cards, tries them once."""

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
    "resize": ("the weights do not show how pictures were resized", "pixels, 1 to 4096"),
    "crop": ("the weights do not show the size of the images", "pixels, 1 to resize"),
    "interpolation": ("the weights do not show how pictures were resized", "bilinear or bicubic"),
    "mean": ("the weights do not show which mean was subtracted", "three numbers on the [0, 1] scale"),
    "std": ("the weights do not show by which deviation images were divided", "three numbers on the [0, 1] scale"),
}


_WEIGHTS_QUESTION = Question(
    "weights",
    "the file has the weights as trained (plain) and their moving average (ema); accuracies are usually reported for the average, "
    "and timm loads it",
    "ema",
    "plain or ema",
)


class NameTakenError(CheckpointError):
    """A model of that name exists already."""


@dataclass(frozen=True)
class Draft:
    """What is known about a checkpoint before it is added.

    Attributes:
        card: complete, with the likely answer to every question.
        options: those of the card that differ from the architecture's defaults.
        questions: those that are not answered yet.
        facts: numbers and short texts stored beside the weights, such as the epoch.
    """

    card: ModelCard
    options: dict[str, object]
    questions: tuple[Question, ...]
    facts: dict[str, Fact]


class QuestionsError(CheckpointError):
    """A checkpoint does not contain all that must be known; `draft` has the questions with likely answers."""

    def __init__(self, file: str, draft: Draft) -> None:
        asked = "; ".join(f"{each.field} (likely {each.likely}): {each.why}" for each in draft.questions)
        super().__init__(
            f"{file} is {draft.card.architecture}, but these questions are open: {asked}. Answer them, or accept the likely answers"
        )
        self.draft = draft


@dataclass(frozen=True)
class Added:
    """A model that was added.

    Attributes:
        checkpoint: its file and its name.
        card: its card.
        assumed: questions to which the likely answer was used.
        facts: numbers and short texts stored beside the weights.
        parameters: number of learned values.
        macs: multiply-accumulate operations for one image; None for a file with its own graph, which does not show them.
        input_shape: (C, H, W) of an image.
    """

    checkpoint: Checkpoint
    card: ModelCard
    assumed: tuple[Question, ...]
    facts: dict[str, Fact]
    parameters: int
    macs: int | None
    input_shape: tuple[int, int, int]


def draft(path: Path, given: Given | None = None, *, isolated: bool = False) -> Draft:
    """Find out what a checkpoint file contains; it is read, not executed.

    Args:
        path: of the file, or of a folder of the hub that contains one. The file is executed only if the given architecture says
            that it brings its own graph (see `models.opaque`).
        given: known fields of its card; `options` and `preprocessing` may be given in part.
        isolated: run a graph from a file in a process of its own.

    Raises:
        UnrecognisedError: its tensors fit no architecture.
        CheckpointError: the file cannot be read or does not fit the given architecture, or a given field is wrong.
    """
    path = checkpoint_file(path)
    told = read_config(path.parent)
    given = {name: value for name, value in told.items() if name == "architecture"} | dict(given or {})
    options, pictures = _mapping(given, "options"), _mapping(given, "preprocessing")
    found, facts = _identify(path, given, options, isolated=isolated)
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
    """Merge preprocessing; if only one of resize and crop is given, adapt the likely value of the other."""
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


def _identify(
    path: Path, given: Given, options: dict[str, Any], *, isolated: bool
) -> tuple[Recognised, dict[str, Fact]]:
    architecture = given.get("architecture")
    if isinstance(architecture, str) and architecture in OPAQUE:
        return _identify_opaque(path, architecture, given, isolated=isolated), {}
    if path.suffix == ".pt2":
        raise CheckpointError(f"{path.name} brings its own graph: to use it, give its architecture as torch_export")
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
        pass  # perhaps of another library, which the given name says
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return _identify_named(file, shapes, str(architecture), options)


def _identify_opaque(path: Path, architecture: str, given: Given, *, isolated: bool) -> Recognised:
    require_size(path)
    side = _mapping(given, "preprocessing").get("crop", Preprocessing().crop)
    if not isinstance(side, int):
        raise CheckpointError(f"preprocessing.crop: expected pixels, got {side!r}")
    try:
        network = load_opaque(architecture, path, isolated=isolated)
        return Recognised(architecture, {}, check_opaque(network, side, randomised=given.get("randomised") is True))
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
    return Question("classes", "the file has no class names", likely, f"{count} names in the order of the logits")


def _is_sized(architecture: str, options: Given) -> bool:
    """Whether the network accepts images of one size only."""
    full = defaults(architecture) | dict(options)
    return "image_size" in full and full.get("positions", "relative") == "relative"


def add(
    path: Path,
    folder: Path,
    name: str,
    given: Given | None = None,
    *,
    accept_likely: bool = False,
    isolated: bool = False,
) -> Added:
    """Add a checkpoint to a folder, after loading it and classifying an image with it.

    Args:
        path: of the file, or of a folder of the hub that contains one; it is copied, or linked if it is in the folder already.
        folder: created if it does not exist.
        name: of the model, and of its files without their suffixes.
        given: known fields of its card.
        accept_likely: use the likely answers to open questions.
        isolated: run a graph from a file in a process of its own.

    Raises:
        QuestionsError: questions are open, and `accept_likely` is false.
        NameTakenError: the folder has a model of that name.
        CheckpointError: as for `draft`, or the model does not work.
    """
    path = checkpoint_file(path)
    require_suffix(path.name)
    found = draft(path, given, isolated=isolated)
    if found.questions and not accept_likely:
        raise QuestionsError(path.name, found)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder) as staging:
        staged = Checkpoint(name, Path(staging) / f"{name}{path.suffix}")
        _copy(path, staged.path, folder)
        sha256 = found.card.sha256 or file_sha256(staged.path)
        card = found.card.model_copy(update={"sha256": sha256, "options": found.options})
        staged.card_path.write_text(card.model_dump_json(indent=2) + "\n")
        classifier = load(staged.path, isolated=isolated)
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
    if logits.shape != (1, len(card.classes)):
        raise CheckpointError(
            f"{file} gives logits {tuple(logits.shape)} for one image, expected (1, {len(card.classes)})"
        )
    if not logits.isfinite().all():
        raise CheckpointError(f"{file} gives logits that are not finite for a black image")


def _publish(staged: Checkpoint, folder: Path, source: Path) -> Checkpoint:
    """Move the files into the folder, the weights first: a checkpoint is found by its card. Neither replaces another file."""
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
        raise NameTakenError(f"{folder} already has files named {staged.name}; choose another name") from None
    return final


def _report(checkpoint: Checkpoint, classifier: Classifier, found: Draft) -> Added:
    card, network = classifier.card, classifier.network
    shape = (3, card.preprocessing.crop, card.preprocessing.crop)
    parameters = sum(each.numel() for each in network.parameters())
    macs = None if card.architecture in OPAQUE else complexity(network, shape).macs
    return Added(checkpoint, classifier.card, found.questions, found.facts, parameters, macs, shape)
