"""Image classifiers: an image tensor in, logits out.

    import models

    network = models.create("san10_pairwise", num_classes=10)  # the bare architecture, freshly initialised
    classifier = models.load("resnet_mini.fashion_mnist")  # a trained checkpoint; takes images in [0, 1]

Each module of `models.families` is one family of architectures; importing this package registers them all.
"""

from models import families
from models.attention import AttentionMap, NoAttentionError, attention_layers, attention_maps
from models.card import ModelCard
from models.checkpoints import ZOO, Checkpoint, find_checkpoints, load, verify
from models.classifier import Classifier
from models.folding import Precision, ServingPrecision, float32_in, fold
from models.graph_process import GraphError
from models.intake import Added, Draft, Given, NameTakenError, QuestionsError, add, draft
from models.macs import Complexity, complexity
from models.opaque import OPAQUE
from models.preprocess import Preprocessing, scaled
from models.readings import Place
from models.recognition.hub import HUB_CONFIG, checkpoint_file
from models.recognition.likely_preprocessing import likely_preprocessing
from models.recognition.proposals import Question
from models.recognition.recognise import Differences, Recognised, UnrecognisedError, recognise
from models.registry import ModelSpec, create, names, register, spec
from models.state_dicts import MAX_CHECKPOINT_BYTES, SUFFIXES, CheckpointError, read_state_dict, require_suffix

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
    "GraphError",
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
    "families",
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
