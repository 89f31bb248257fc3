"""Image classifiers: an image tensor in, logits out.

    import models

    network = models.create("san10_pairwise", num_classes=10)  # the bare architecture, freshly initialised
    classifier = models.load("resnet_mini.fashion_mnist")  # a trained checkpoint; takes images in [0, 1]

Every module of this package without a leading underscore is one family of architectures; importing the package registers them.
"""

import importlib
import pkgutil

from models._card import ModelCard
from models._checkpoints import ZOO, Checkpoint, CheckpointError, find_checkpoints, load, read_state_dict, verify
from models._classifier import Classifier
from models._complexity import Complexity, complexity
from models._preprocess import Preprocessing
from models._registry import ModelSpec, create, names, register, spec

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_") and not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ZOO",
    "Checkpoint",
    "CheckpointError",
    "Classifier",
    "Complexity",
    "ModelCard",
    "ModelSpec",
    "Preprocessing",
    "complexity",
    "create",
    "find_checkpoints",
    "load",
    "names",
    "read_state_dict",
    "register",
    "spec",
    "verify",
]
