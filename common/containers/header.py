"""What is known about a picture before it is decoded."""

import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

UPRIGHT = 1
"""The EXIF orientation of a picture that need not be turned."""
_SIDEWAYS = frozenset({5, 6, 7, 8})


class PictureError(ValueError):
    """A picture cannot be used; the message says why."""


@dataclass(frozen=True)
class Header:
    """What is known about a picture before it is decoded.

    Attributes:
        format: as Pillow names it.
        width: as stored, pixels.
        height: likewise.
        bare: writes the file without its metadata.
        orientation: EXIF's, 1 to 8; 1 is upright, and taken where there is none that can be read.
        baseline: a JPEG of the most usual kind, which any decoder reads alike: baseline, of three components without Adobe's marks.
    """

    format: str
    width: int
    height: int
    bare: Callable[[], bytes]
    orientation: int = UPRIGHT
    baseline: bool = False

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once it is turned upright, pixels."""
        return (self.height, self.width) if self.orientation in _SIDEWAYS else (self.width, self.height)

    def require_few_pixels(self, most: int) -> None:
        """Refuse a picture that is too large, or has nothing to see.

        Raises:
            PictureError: it has more pixels, or none.
        """
        if not self.pixels:
            raise PictureError(f"the picture has {self.width} x {self.height} pixels")
        if self.pixels > most:
            raise PictureError(f"the picture has {self.width} x {self.height} pixels, at most {most} are allowed")


@contextmanager
def broken() -> Generator[None]:
    """Report what ends or jumps where it must not.

    Raises:
        PictureError: it does.
    """
    try:
        yield
    except (struct.error, IndexError) as error:
        raise PictureError(f"the picture is broken or truncated: {error}") from None
