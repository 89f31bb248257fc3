"""Folders of the Hugging Face hub: which file is the checkpoint, and what the `config.json` beside it says about it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from models.libraries import of_timm
from models.state_dicts import CheckpointError

HUB_CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of checkpoints in the hub's folders, the preferred one first."""


def checkpoint_file(path: Path) -> Path:
    """Find the checkpoint in a folder of the hub; the path of a file is returned as it is.

    Raises:
        CheckpointError: the folder has no `config.json` or no checkpoint.
    """
    if not path.is_dir():
        return path
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not files or not (path / HUB_CONFIG).is_file():
        raise CheckpointError(
            f"the folder {path} is not one of the hub: it needs {HUB_CONFIG} and {' or '.join(WEIGHTS)}"
        )
    return files[0]


def read_config(folder: Path) -> dict[str, Any]:
    """Read fields of a card from a folder's `config.json` in timm's format; class names also in that of transformers.

    Returns:
        Some of `architecture`, `preprocessing` and `classes`; empty if the file is missing or has another format.

    Raises:
        CheckpointError: the file has timm's format, but its values cannot be used.
    """
    try:
        config: object = json.loads((folder / HUB_CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}  # other programs write files of this name, too
    if not isinstance(config, Mapping):
        return {}
    config = cast(Mapping[str, Any], config)
    fields = _classes(config)
    if isinstance(config.get("architecture"), str) and isinstance(config.get("pretrained_cfg"), Mapping):
        fields["architecture"] = f"timm:{config['architecture']}"
        try:
            fields["preprocessing"] = of_timm(config["pretrained_cfg"]).model_dump()
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{HUB_CONFIG}: pretrained_cfg does not say how to prepare pictures: {error!r}"
            ) from error
    return fields


def _classes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the classes: a list in timm's format, a mapping from numbers in that of transformers."""
    names = config.get("label_names")
    numbered = config.get("id2label")
    if isinstance(numbered, Mapping):
        by_number = cast(Mapping[str, object], numbered)
        names = [by_number.get(str(index)) for index in range(len(by_number))]
    if not isinstance(names, list) or not names:
        return {}
    known = cast(list[object], names)
    return {"classes": known} if all(isinstance(name, str) and name for name in known) else {}
