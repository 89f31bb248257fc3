"""What was found out about a data set, stored in a file, so that it is found out once."""

from contextlib import suppress
from pathlib import Path
from threading import RLock
from uuid import uuid4

from pydantic import ValidationError

from common import text_sha256
from common.validation import Frozen


class Facts(Frozen):
    """What is known of a data set.

    Attributes:
        state: sizes and times of its files when it was hashed.
        sha256: of its content.
        images: how many it had when it was last counted; 0 if it never was.
        classes: that it had then.
        decoders: what pictures were decoded by, and the hash of the content they belonged to.
        looks: a sign for each picture: "." it is fine, "x" it is broken, "?" it was not looked at.
        broken: why broken ones are, by their index.
    """

    state: str = ""
    sha256: str = ""
    images: int = 0
    classes: tuple[str, ...] = ()
    decoders: str = ""
    looks: str = ""
    broken: dict[int, str] = {}


class Notes:
    """Facts about one data set, in memory and in a file.

    Files are written aside and moved into place, so several processes may share a folder. What cannot be read or written is found
    out anew.

    Args:
        path: of the data set.
        folder: of the files of all data sets; None keeps the facts in memory.
    """

    def __init__(self, path: Path, folder: Path | None) -> None:
        self._file = folder and folder / f"{path.name}-{text_sha256(str(path.resolve()))[:16]}.json"
        self.lock = RLock()
        """Held while a fact is being found out, so that it is done once."""
        self.facts = Facts()
        if self._file:
            with suppress(OSError, ValidationError):
                self.facts = Facts.model_validate_json(self._file.read_bytes())

    def update(self, **changes: object) -> Facts:
        """Change facts, and write them."""
        self.facts = self.facts.model_copy(update=changes)
        if self._file:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                aside = self._file.with_suffix(f".{uuid4().hex}")
                aside.write_text(self.facts.model_dump_json())
                aside.replace(self._file)
        return self.facts
