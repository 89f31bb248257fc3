"""Image classifiers: an image tensor in, logits out.

    import models

    network = models.create("san10_pairwise", num_classes=10)  # the bare architecture, freshly initialised
    classifier = models.load("resnet_mini.fashion_mnist")  # a trained checkpoint; takes images in [0, 1]

Every module of this package without a leading underscore is one family of architectures; importing the package registers them.
"""

import importlib
import pkgutil

from models._attention import AttentionMap, NoAttentionError, Place, attention_layers, attention_maps
from models._card import ModelCard
from models._checkpoints import ZOO, Checkpoint, find_checkpoints, load, verify
from models._classifier import Classifier
from models._complexity import Complexity, complexity
from models._families import Question
from models._fold import Precision, ServingPrecision, float32_in, fold
from models._hub import HUB_CONFIG, checkpoint_file
from models._intake import Added, Draft, Given, NameTakenError, QuestionsError, add, draft
from models._likely_preprocessing import likely_preprocessing
from models._preprocess import Preprocessing, scaled
from models._recognise import Differences, Recognised, UnrecognisedError, recognise
from models._registry import ModelSpec, create, names, register, spec
from models._state_dicts import MAX_CHECKPOINT_BYTES, SUFFIXES, CheckpointError, read_state_dict, require_suffix
from models.opaque import OPAQUE

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_") and not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "HUB_CONFIG",
    "MAX_CHECKPOINT_BYTES",
    "OPAQUE",
    "SUFFIXES",
    "ZOO",
    "Added",
    "AttentionMap",
    "Checkpoint",
    "CheckpointError",
    "Classifier",
    "Complexity",
    "Differences",
    "Draft",
    "Given",
    "ModelCard",
    "ModelSpec",
    "NameTakenError",
    "NoAttentionError",
    "Place",
    "Precision",
    "Preprocessing",
    "Question",
    "QuestionsError",
    "Recognised",
    "ServingPrecision",
    "UnrecognisedError",
    "add",
    "attention_layers",
    "attention_maps",
    "checkpoint_file",
    "complexity",
    "create",
    "draft",
    "find_checkpoints",
    "float32_in",
    "fold",
    "likely_preprocessing",
    "load",
    "names",
    "read_state_dict",
    "recognise",
    "register",
    "require_suffix",
    "scaled",
    "spec",
    "verify",
]
