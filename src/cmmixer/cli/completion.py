"""What shells and editors complete: commands and flags on the command line, keys and values in a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from typing import Any

from cmmixer.cli.commands import COMMANDS, Command
from cmmixer.cli.parser import build
from cmmixer.config.base import FLAG_OF_FIELD, ChoiceError, one_of
from cmmixer.errors import SettingsError

SHELLS = ("bash", "zsh", "tcsh")
SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def completion_script(shell: str) -> str:
    """Returns a script for bash, zsh or tcsh that completes commands, flags, choices and file names.

    Raises:
        SettingsError: another shell.
    """
    import shtab

    one_of("print_completion", shell, SHELLS)
    parser = argparse.ArgumentParser(prog="cmmixer")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--print_completion", choices=SHELLS, help="print this script")
    parser.add_argument("--print_schema", choices=list(COMMANDS), help="print the JSON schema of a command's recipe")
    subparsers = parser.add_subparsers()
    for command in COMMANDS.values():
        built = build(command)
        _set_completions(built, command)
        subparsers.add_parser(command.name, help=command.summary, parents=[built], add_help=False)
    return str(shtab.complete(parser, shell))


def recipe_schema(name: str) -> str:
    """Returns the JSON schema of a command's recipe, the YAML file of `--config`, for editors that complete and check it.

    Args:
        name: name of the command.

    Raises:
        SettingsError: no such command.
    """
    one_of("print_schema", name, COMMANDS)
    command = COMMANDS[name]
    schema = json.loads(build(command).get_completion_script("jsonschema"))
    properties = schema["properties"]
    for key in ("$schema", "json"):  # a recipe cannot have them
        properties.pop(key, None)
    for field, choices in field_choices(command.settings).items():
        entry = properties[FLAG_OF_FIELD.get(field, field)]
        entry["enum"] = [*choices, None] if "null" in entry["type"] else list(choices)
    for entry in properties.values():
        entry["description"] = entry["description"].replace("%%", "%")  # argparse's escape
    return json.dumps(
        {
            "$schema": SCHEMA,
            "title": f"Recipe of `cmmixer {name}`",
            "description": f"{command.summary} A recipe sets options: `cmmixer {name} --config recipe.yaml`.",
            "type": "object",
            "additionalProperties": False,
            "properties": properties,
        },
        indent=1,
    )


def field_choices(settings: type[Any]) -> dict[str, tuple[str, ...]]:
    """Returns the values that the text fields of a settings class may have, where the class checks a choice."""
    hints = typing.get_type_hints(settings)
    fields = dataclasses.fields(settings)
    required = {
        field.name: "x" if hints[field.name] is str else hints[field.name](1)
        for field in fields
        if field.default is dataclasses.MISSING
    }
    choices = {}
    for field in fields:
        if hints[field.name] in (str, str | None):
            # The check itself names the choices when it refuses a value.
            try:
                settings(**{**required, field.name: "\0"})
            except ChoiceError as error:
                if error.option == FLAG_OF_FIELD.get(field.name, field.name):
                    choices[field.name] = error.choices
            except SettingsError:
                pass
    return choices


def _set_completions(parser: argparse.ArgumentParser, command: Command) -> None:
    """Tells shtab what follows each flag: a choice, or a file name for other text."""
    import shtab

    choices = field_choices(command.settings)
    hints = typing.get_type_hints(command.settings)
    field_of_flag = {flag: field for field, flag in FLAG_OF_FIELD.items()}
    for action in parser._actions:
        field = field_of_flag.get(action.dest, action.dest)
        if field in choices:
            action.choices = choices[field]
        elif action.dest == "config" or hints.get(field) in (str, str | None):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
