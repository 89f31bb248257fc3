"""Broken pictures are found before anything is computed: each picture is decoded once, and what came of it is stored."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import models
from common.cores import cores
from common.pictures import PictureError
from common.validation import Frozen
from evaluation.data.datasets import ImageFolder
from evaluation.data.pixel_cache import PixelFile, decoders
from evaluation.data.pixels import Pixels
from evaluation.data.sources import DatasetError
from evaluation.spec import OnBroken

OnLook = Callable[[int, int], None]
"""Called with the pictures that were looked at and with how many there are to look at."""

AT_ONCE = 2000
"""Pictures after which what was found out is written down."""

FEW = 8
"""Pictures that this thread looks at alone, before others would have begun."""

SHOWN = 5
"""Broken pictures that a message names."""

_CONVERTIBLE = frozenset({"L", "RGB"})
_decode_only = models.Preprocessing(resize=1, crop=1)


class BrokenPicture(Frozen):
    """A picture that cannot be used, and why."""

    index: int
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class BrokenPicturesError(DatasetError):
    """Pictures of a selection are broken."""

    def __init__(self, dataset: ImageFolder, broken: Sequence[BrokenPicture], selected: int) -> None:
        self.broken = tuple(broken)
        super().__init__(
            f"{dataset.path.name}: {len(broken)} of the {selected} selected pictures cannot be used: {describe(broken)}. "
            'Repair or remove them, or leave them out with --on-broken skip (in a request: "on_broken": "skip")'
        )


def describe(broken: Sequence[BrokenPicture]) -> str:
    """Name the first few broken pictures with their reasons, and count the rest."""
    rest = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    return "; ".join(map(str, broken[:SHOWN])) + rest


def select_usable(
    dataset: ImageFolder,
    count: int | None,
    seed: int,
    *,
    on_broken: OnBroken = "fail",
    evenly: bool = True,
    preprocessings: Iterable[models.Preprocessing] = (),
    on_look: OnLook = lambda done, total: None,
) -> tuple[list[int], tuple[BrokenPicture, ...]]:
    """Choose images, all of which can be decoded.

    Only pictures that might be chosen are looked at, once, and their pixels are stored for what comes after. With "skip", the next
    picture, of its class if they are chosen evenly, takes the place of a broken one, so the selection is the beginning of one order
    of all that are not broken, however many are chosen.

    Args:
        dataset: of the images.
        count: how many; None takes all.
        seed: of the draw.
        on_broken: "fail" refuses a selection with broken pictures, "skip" leaves them out.
        evenly: from the classes, see `ImageFolder.select`.
        preprocessings: whose pixels are stored.
        on_look: called as pictures are looked at.

    Returns:
        Indices of the images, and the broken pictures that were left out.

    Raises:
        BrokenPicturesError: pictures are broken, and that is to fail.
        SelectionError: there are fewer images that are not broken.
    """
    skipped: dict[int, BrokenPicture] = {}
    while True:
        chosen = dataset.select(count, seed, broken=skipped, evenly=evenly)
        broken = find_broken(dataset, chosen, preprocessings=preprocessings, on_look=on_look)
        if not broken:
            return chosen, tuple(skipped[index] for index in sorted(skipped))
        if on_broken == "fail":
            raise BrokenPicturesError(dataset, broken, len(chosen))
        skipped |= {each.index: each for each in broken}


def find_broken(
    dataset: ImageFolder,
    indices: Iterable[int],
    *,
    preprocessings: Iterable[models.Preprocessing] = (),
    on_look: OnLook = lambda done, total: None,
) -> list[BrokenPicture]:
    """Look at pictures that were not looked at before, and list those that cannot be used, in the order of their files.

    Args:
        dataset: of the pictures.
        indices: of the pictures.
        preprocessings: whose pixels are stored of those that are looked at.
        on_look: called as pictures are looked at.
    """
    sha256, indices = dataset.sha256, sorted(indices)
    with dataset.notes.lock:
        facts = dataset.notes.facts
        decoded_by = f"{decoders()}, {sha256}"
        same = facts.decoders == decoded_by and len(facts.looks) == len(dataset)
        looks, reasons = list(facts.looks if same else "?" * len(dataset)), dict(facts.broken) if same else {}
        todo = [index for index in indices if looks[index] == "?"]
        files = {pixels: pixels.open() for pixels in map(dataset.pixels, preprocessings)} if todo else {}
        for done, found in _looked_at(dataset, todo, files):
            for index, reason in found:
                looks[index] = "." if reason is None else "x"
                if reason is not None:
                    reasons[index] = reason
            dataset.notes.update(decoders=decoded_by, looks="".join(looks), broken=reasons)
            on_look(done, len(todo))
    return [
        BrokenPicture(index=index, file=dataset.files[index], reason=reasons[index])
        for index in indices
        if index in reasons
    ]


def _looked_at(
    dataset: ImageFolder, todo: Sequence[int], files: Mapping[Pixels, PixelFile]
) -> Iterator[tuple[int, list[tuple[int, str | None]]]]:
    """Look at pictures on all cores; yields how many are done, and the last of them with what is wrong."""
    look = partial(_wrong_with, dataset, files)
    with ThreadPoolExecutor(cores()) as pool:
        each_in = map if len(todo) <= FEW else pool.map
        for start in range(0, len(todo), AT_ONCE):
            part = todo[start : start + AT_ONCE]
            yield start + len(part), [*zip(part, each_in(look, part), strict=True)]


def _wrong_with(dataset: ImageFolder, files: Mapping[Pixels, PixelFile], index: int) -> str | None:
    try:
        picture = dataset.picture(index)
        for pixels, file in files.items():
            pixels.keep(file, index, picture)
        if picture.mode not in _CONVERTIBLE:
            _decode_only(picture)
    except (DatasetError, PictureError) as error:
        return str(error).removeprefix(f"{dataset.path.name}: {dataset.files[index]}: ")
    return None
