"""What the package shows to the outside, and what is written about it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cmmixer
from cmmixer.cli.commands import COMMANDS
from cmmixer.cli.parser import parse

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", cmmixer.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(cmmixer, name)
    assert callable(value) or name == "__version__"
    assert name in dir(cmmixer)


def test_a_function_is_not_hidden_by_a_room_that_was_imported_first() -> None:
    code = "import cmmixer.retrieval, cmmixer.evaluation.evaluate, cmmixer; print(callable(cmmixer.search), callable(cmmixer.evaluate))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True True\n"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cmmixer' has no attribute 'mixx'"):
        _ = cmmixer.mixx


def test_every_command_line_of_the_readme_parses() -> None:
    joined = README.replace("\\\n", " ")
    names = "|".join(COMMANDS)
    lines = re.findall(rf"cmmixer ((?:{names}) [^`\n]*?)(?=`|\n|#)", joined)
    assert len(lines) >= 9
    for line in lines:
        name, *arguments = [word for word in shlex.split(line) if word != "..."]
        parse(COMMANDS[name], arguments)


def test_every_command_stands_in_the_readme() -> None:
    assert [name for name in COMMANDS if f"cmmixer {name}" not in README] == []


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_accepted_by_the_command_it_is_named_after(recipe: Path) -> None:
    command = COMMANDS[recipe.stem.rpartition("-")[2]]
    settings, _ = parse(command, ["--config", str(recipe), "--data", "films"])
    assert isinstance(settings, command.settings)


def test_pictures_the_readme_shows_are_there() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert shown
    assert [path for path in shown if not (ROOT / path).is_file()] == []
