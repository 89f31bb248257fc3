"""The development container has what the tests run on."""

import json
import re

from tests.docker.dockerfile import ROOT


def test_it_installs_what_ci_installs() -> None:
    described = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    wanted = re.findall(r"packages\+=\((\S+)\)", (ROOT / ".ci" / "run").read_text())
    assert described["onCreateCommand"].split()[-len(wanted) :] == wanted
    assert described["updateContentCommand"] == "make install"
