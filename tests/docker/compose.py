"""Reads the compose files as compose does."""

import re
from typing import Any

import yaml

from tests.docker.dockerfile import FOLDER


def services(file: str = "compose.yaml", **environment: str) -> dict[str, dict[str, Any]]:
    """Services of a compose file with variables filled in as compose does."""

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value) for value in node]
        if not isinstance(node, str):
            return node
        return re.sub(r"\$\{(\w+):(-|\?)(.*?)\}", lambda found: environment.get(found[1], found[3]), node)

    return fill(yaml.safe_load((FOLDER / file).read_text())["services"])
