"""Reads the Dockerfile and .dockerignore as far as they are used here, so that tests run the very lines of the image."""

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
DOCKERFILE = FOLDER / "Dockerfile"
TARGETS = ("cpu", "cuda")


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as RUN, and what follows it, on one line."""

    keyword: str
    rest: str

    @property
    def command(self) -> str:
        """What a RUN executes, without its flags."""
        return re.sub(r"--\w+=\S+\s+", "", self.rest)

    @property
    def sources(self) -> list[str]:
        """Paths of the build context that a COPY copies or a RUN mounts; "." is all of it."""
        if self.keyword == "COPY":
            return shlex.split(self.rest)[:-1]
        mounts = [dict(re.findall(r"(\w+)=([^,\s]+)", flag)) for flag in re.findall(r"--mount=(\S+)", self.rest)]
        return [mount.get("source", ".") for mount in mounts if mount["type"] == "bind" and "from" not in mount]


def stages(text: str) -> dict[str, list[Instruction]]:
    """Instructions of each stage by its name, after those it inherits."""
    found: dict[str, list[Instruction]] = {"": []}
    current = ""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "FROM":
            parent, _, current = rest.split()
            found[current] = list(found.get(parent, []))
        elif keyword:
            found[current].append(Instruction(keyword, rest.strip()))
    return found


def stage(name: str) -> list[Instruction]:
    return stages(DOCKERFILE.read_text())[name]


def last(name: str, keyword: str) -> str:
    """What a stage says last for an instruction."""
    return [each.rest for each in stage(name) if each.keyword == keyword][-1]


def variables(name: str, keyword: str = "ENV") -> dict[str, str]:
    """Variables of a stage; those of ARG without a default are left out."""
    words = [word for each in stage(name) if each.keyword == keyword for word in shlex.split(each.rest)]
    return {key: value for key, equals, value in (word.partition("=") for word in words) if equals}


def is_ignored(path: str) -> bool:
    """Does .dockerignore keep this path (or a folder it lies in) out of the build? The last pattern that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not pattern.startswith("#") and re.fullmatch(_expression(pattern), path):
            ignored = not line.startswith("!")
    return ignored


def _expression(pattern: str) -> str:
    translated = {"**/": "(.*/)?", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*)", pattern)
    return "".join(translated.get(part) or re.escape(part) for part in parts) + "(/.*)?"


def context() -> Iterator[str]:
    """Every file that a build would be given."""
    for folder, folders, files in os.walk(ROOT):
        at = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if not is_ignored((at / name).as_posix())]
        yield from (path for name in files if not is_ignored(path := (at / name).as_posix()))


def copy_context(target: Path, paths: Iterable[str] = (".",)) -> list[str]:
    """Copy what a build would be given, or only these files of it, and return what was copied."""
    wanted = set(paths)
    copied = [path for path in context() if "." in wanted or path in wanted]
    for path in copied:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    return copied
