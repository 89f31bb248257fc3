"""What a hostile pickle would do."""

import os
from collections.abc import Callable
from pathlib import Path


class Trap:
    """Creates a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)
