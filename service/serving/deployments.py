"""Which checkpoint answers for a model's name, and how: versions, the default one, precision, batch and device.

The checkpoints `mine` and `mine@2` are two versions of the model `mine`: the one without a version is version 1. Settings lie in a
JSON file for each model below the data folder, so that every process of the service reads the same.
"""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from common import describe_validation, unknown_name
from common.validation import Frozen, Whole
from evaluation import Catalog
from evaluation.statistics import Proportion
from models import CheckpointError, ModelCard, ServingPrecision

FIRST_VERSION = "1"

SETTLED_NS = 10**9
"""Files that changed less than this ago are looked at again: their time stamps may not tell the next change."""


Decoder = Literal["cpu", "nvjpeg"]


class ServingSettings(Frozen):
    """How a model is served; of all its versions, but for the default one."""

    default_version: Annotated[
        str | None, Field(description="answers where no version is asked for; null takes the latest")
    ] = None
    precision: Annotated[ServingPrecision, Field(description="of weights and maps; logits are float32 always")] = (
        "float32"
    )
    max_batch: Annotated[
        Whole | None, Field(ge=1, le=4096, description="most pictures of a batch; null goes by their size")
    ] = None
    top_k: Annotated[Whole, Field(ge=1, le=1000, description="classes named where a request does not say")] = 5
    cuda_graphs: Annotated[
        bool, Field(strict=True, description="on a GPU, capture the model for batches of 1, 2, 4, ..., 64 pictures")
    ] = True
    decoder: Annotated[
        Decoder, Field(description="of JPEGs: cpu, as in evaluations, or nvjpeg, on a GPU, with slightly other pixels")
    ] = "cpu"
    device: Annotated[str | None, Field(description="the only device to use; null takes the least loaded")] = None
    warm: Annotated[
        bool, Field(strict=True, description="load it when the service starts, not at its first picture")
    ] = False


class Agreement(BaseModel):
    """How often another precision gives the top-1 class of float32, on images of the model's own data set."""

    precision: ServingPrecision
    dataset: str
    agreement: Annotated[Proportion, Field(description="images with the same top-1 class")]
    speedup: Annotated[
        float, Field(description="seconds of float32 over those of this precision, same images and device")
    ]


class DecoderAgreement(BaseModel):
    """How often pictures decoded with nvJPEG get the top-1 class that they get otherwise."""

    dataset: Annotated[str | None, Field(description="where the pictures are from; null means generated ones")]
    agreement: Annotated[Proportion, Field(description="pictures with the same top-1 class")]
    largest_difference: Annotated[float, Field(description="largest difference of a class's probability")]


class Measured(BaseModel):
    """What was measured before a model's settings were accepted."""

    agreement: Annotated[
        Agreement | None,
        Field(description="of the precision with float32, on images of the model's data set; null if not measured"),
    ] = None
    decoder_agreement: Annotated[
        DecoderAgreement | None,
        Field(description="of nvJPEG with the decoder of evaluations; null if that decodes"),
    ] = None


class _Stored(Measured):
    """A settings file."""

    settings: ServingSettings = ServingSettings()


@dataclass(frozen=True)
class Deployment:
    """A version of a model as it is served.

    Attributes:
        name: of the model, without its version.
        version: such as "1".
        checkpoint: name of the checkpoint, such as "mine" or "mine@2".
        card: its facts.
        sha256: of what decides its answers, see `Catalog.model_sha256`.
        settings: how it is served.
    """

    name: str
    version: str
    checkpoint: str
    card: ModelCard
    sha256: str
    settings: ServingSettings

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What a loaded copy can be used for."""
        return self.checkpoint, self.sha256, self.settings.precision, self.settings.cuda_graphs


_Stamps = tuple[int, ...]


class Deployments:
    """Finds deployments by name; files may change at any time.

    Args:
        catalog: where checkpoints are.
        folder: of the settings files; made if need be.
    """

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self._catalog, self._folder = catalog, folder
        self._known: dict[tuple[str, str | None], tuple[_Stamps, tuple[Path, ...], Deployment]] = {}

    def known(self, name: str, version: str | None = None) -> Deployment | None:
        """What `find` found before, if no file has changed since; takes microseconds."""
        known = self._known.get((name, version))
        return known[2] if known is not None and known[0] == _stamps(known[1]) else None

    def find(self, name: str, version: str | None = None) -> Deployment:
        """Look up what answers for a name, such as `mine` or `mine@2`; no version means the default one.

        Raises:
            UnknownNameError: there is no such model or version.
            CheckpointError: its card or its settings file is not usable.
        """
        known = self.known(name, version)
        if known is not None:
            return known
        began_ns = time.time_ns()
        found = self._find(name, version)
        checkpoint = self._catalog.checkpoint(found.checkpoint)
        watched = (*self._catalog.model_folders, checkpoint.path, checkpoint.card_path, self._file(found.name))
        stamps = _stamps(watched)
        if began_ns - max(stamps) > SETTLED_NS:  # else a file may have changed while it was read
            self._known[name, version] = stamps, watched, found
        return found

    def _find(self, name: str, version: str | None) -> Deployment:
        model, _, own_version = name.partition("@")
        versions = self.versions(model)
        stored = self.settings(model)
        asked = version or own_version or stored.default_version or next(reversed(versions))
        if asked not in versions:
            raise unknown_name(f"version of {model}", asked, versions)
        checkpoint = self._catalog.checkpoint(versions[asked])
        return Deployment(
            model, asked, checkpoint.name, checkpoint.card(), self._catalog.model_sha256(checkpoint.name), stored
        )

    def versions(self, model: str) -> dict[str, str]:
        """List the checkpoints of a model by version, the latest last.

        Raises:
            UnknownNameError: there is none.
            CheckpointError: two have the same version.
        """
        found: dict[str, str] = {}
        for checkpoint in self._catalog.checkpoints():
            if checkpoint.partition("@")[0] != model:
                continue
            version = version_of(checkpoint)
            if version in found:
                raise CheckpointError(
                    f"{found[version]} and {checkpoint} are both version {version}; rename one of them"
                )
            found[version] = checkpoint
        if not found:
            raise unknown_name("model", model, self.names())
        return dict(sorted(found.items(), key=lambda each: _order(each[0])))

    def names(self) -> list[str]:
        """List the models, without their versions."""
        return list(dict.fromkeys(each.partition("@")[0] for each in self._catalog.checkpoints()))

    def settings(self, model: str) -> ServingSettings:
        """How a model is served."""
        return self._read(model).settings

    def measured(self, model: str) -> Measured:
        """What was measured for a model's settings."""
        stored = self._read(model)
        return Measured(agreement=stored.agreement, decoder_agreement=stored.decoder_agreement)

    def proposed(self, model: str, settings: ServingSettings) -> Deployment:
        """What the default version would be under other settings.

        Raises:
            UnknownNameError: there is no such model or version.
            CheckpointError: its card is not usable.
        """
        return replace(self._find(model, settings.default_version), settings=settings)

    def save(self, model: str, settings: ServingSettings, measured: Measured) -> None:
        """Change how a model is served."""
        stored = _Stored(settings=settings, **dict(measured))
        _write(self._file(model), stored.model_dump_json(indent=2))

    def forget(self, model: str) -> None:
        """Drop the settings of a model of which no version is left."""
        if model not in self.names():
            self._file(model).unlink(missing_ok=True)

    def _file(self, model: str) -> Path:
        return self._folder / f"{model}.json"

    def _read(self, model: str) -> _Stored:
        try:
            return _Stored.model_validate_json(self._file(model).read_bytes())
        except FileNotFoundError:
            return _Stored()
        except ValidationError as error:
            raise CheckpointError(
                f"the settings {self._file(model).name} are not usable: {describe_validation(error)}"
            ) from error


def version_of(checkpoint: str) -> str:
    """Read the version from a checkpoint's name."""
    return checkpoint.partition("@")[2] or FIRST_VERSION


def _order(version: str) -> tuple[int, str]:
    """Numbers by their value and before all else; everything else by the alphabet."""
    return (int(version), "") if version.isdecimal() else (10**18, version)


def _stamps(paths: tuple[Path, ...]) -> _Stamps:
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  # half the time of Path.stat
    except OSError:
        return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
