"""What the help says, and that what needs no torch does not import it."""

import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

import cli.commands
import cli.main
import evaluation
from service.http.formats import SUFFIXES
from tests.command import Ended, Run

SHELL = os.environ | {"SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
LIGHT = """
import sys
sys.argv = ["withstand", *sys.argv[1:]]
import cli.main
try:
    cli.main.main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def helps() -> list[list[str]]:
    """The help of every command, and of what it can do with one thing."""
    commands = {name: getattr(cli.main.load_command(name), "commands", {}) for name in cli.main.COMMANDS}
    return [
        [name, *of, "--help"]
        for name, subcommands in commands.items()
        for of in ([], *([each] for each in subcommands))
    ]


LIGHT_USES = [["--help"], ["--version"], [], ["--show-completion"], ["dance"], *helps(), ["evaluate", "--wrong"]]


@pytest.mark.parametrize("arguments", LIGHT_USES, ids=" ".join)
def test_what_needs_no_torch_does_not_import_it(arguments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False, env=SHELL
    )
    assert ended.stderr.splitlines()[-1] == "False", ended.stderr


def test_the_shell_completes_commands_without_torch() -> None:
    asked = SHELL | {"_WITHSTAND_COMPLETE": "complete_bash", "COMP_WORDS": "withstand ", "COMP_CWORD": "1"}
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False, env=asked)
    assert ended.stdout.split() == [*cli.main.COMMANDS]
    assert ended.stderr.splitlines()[-1] == "False"


def test_the_version_is_the_installed_one(run: Run) -> None:
    assert run("--version") == Ended(0, f"withstand {metadata.version('withstand')}\n", "")


@pytest.mark.parametrize("name", cli.main.COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    assert cli.main.load_command(name).help.startswith(cli.main.COMMANDS[name])


def test_presets_are_listed_with_what_they_do(run: Run) -> None:
    ended = run("presets")
    assert (ended.status, ended.err) == (0, "")
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == evaluation.preset_names()
    for preset in evaluation.list_presets():
        assert f"{preset.name}: {preset.explanation} Source: {preset.source}.\n" in ended.out
    assert json.loads(run("presets", "--json").out)[0]["conditions"][0] == {"kind": "clean"}


def test_the_help_names_endings_that_there_are() -> None:
    options = {each.name: each.help for each in cli.main.load_command("evaluate").params}
    named = re.findall(r"\.\w+\b", options["out"])
    assert named
    assert {*named} <= {*SUFFIXES}


@pytest.mark.parametrize("name", cli.main.COMMANDS)
def test_the_help_states_every_default(name: str) -> None:
    command = cli.main.load_command(name)
    context = typer.Context(command)
    for parameter in command.params:
        if parameter.name == "help":
            continue
        record = parameter.get_help_record(context)
        assert record is not None, parameter.name
        flags, text = record
        assert len(text) > 10, flags
        assert "default: " in text or "[required]" in text, f"{name} {flags}: {text}"


def test_the_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli.main.app, ["--help"])
    assert result.exit_code == 0
    modules = {each.name for each in pkgutil.iter_modules(cli.commands.__path__)}
    assert modules == {name.replace("-", "_") for name in cli.main.COMMANDS}
    for name in cli.main.COMMANDS:
        assert name.replace("-", "").isalpha()
        assert name in result.output
