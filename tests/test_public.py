"""The public names, and what the README says about the package."""

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
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(cmmixer, name)
    assert callable(value) or name == "__version__"
    assert name in dir(cmmixer)


def test_a_function_is_not_hidden_by_a_module_that_was_imported_first() -> None:
    code = "import cmmixer.retrieval, cmmixer.evaluation.evaluate, cmmixer; print(callable(cmmixer.search), callable(cmmixer.evaluate))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True True\n"
    )


def test_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, cmmixer; dir(cmmixer); cmmixer.PretrainSettings\n"
        "print([name for name in ('torch', 'numpy', 'lancedb', 'lightning', 'av') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_are_listed_once() -> None:
    stub = (ROOT / "src" / "cmmixer" / "__init__.pyi").read_text()
    listed = re.findall(r"^from \.[\w.]+ import (\w+) as \1$", stub, re.MULTILINE)
    assert sorted(listed) == sorted(cmmixer.__all__)
    assert len(set(listed)) == len(listed)


def test_every_command_is_a_public_function_with_public_settings() -> None:
    for name, command in COMMANDS.items():
        assert getattr(cmmixer, name) is command.load()
        assert getattr(cmmixer, command.settings.__name__) is command.settings


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No cmmixer attribute mixx"):
        _ = cmmixer.mixx


def test_every_command_line_of_the_readme_parses() -> None:
    joined = README.replace("\\\n", " ")
    names = "|".join(COMMANDS)
    lines = re.findall(rf"cmmixer ((?:{names}) [^`\n]*?)(?=`|\n|#)", joined)
    assert len(lines) >= 3
    for line in lines:
        name, *arguments = [word for word in shlex.split(line) if word != "..."]
        parse(COMMANDS[name], arguments)


def test_every_command_is_in_the_readme_or_a_guide() -> None:
    pages = README + "".join(page.read_text() for page in sorted((ROOT / "docs").glob("for-*.md")))
    assert [name for name in COMMANDS if f"cmmixer {name}" not in pages] == []


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_accepted_by_its_command(recipe: Path) -> None:
    command = COMMANDS[recipe.stem.rpartition("-")[2]]
    settings, _ = parse(command, ["--config", str(recipe), "--data", "videos"])
    assert isinstance(settings, command.settings)


def test_images_of_the_readme_exist() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert shown
    assert [path for path in shown if not path.startswith("../../actions/") and not (ROOT / path).is_file()] == []
