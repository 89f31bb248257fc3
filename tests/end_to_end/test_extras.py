"""What is said about optional libraries can be typed as it is written, in a clone: the package is on no registry."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def told() -> dict[str, str]:
    """What documents and messages say to install, with the file that says so."""
    tracked = subprocess.run(["git", "ls-files", "*.md", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in tracked.stdout.split() if not name.startswith("tests/")]
    found = {}
    for file in files or [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[aems]*/*.py")]:
        found |= dict.fromkeys(re.findall(r"pip install '([^']+)'", file.read_text()), file.name)
    return found


def test_every_extra_that_is_named_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert told().keys() == {f".[{extra}]" for extra in extras}
