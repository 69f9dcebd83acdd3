"""From settings classes to flags, and from argparse's complaints to one clear line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import itertools
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser

from cmmixer.cli.commands import Command
from cmmixer.config.base import FLAG_OF_FIELD
from cmmixer.errors import SettingsError

SHORT = {"k": "-k", "out": "-o"}
GROUP_TITLES = {
    "DataSettings": "which films",
    "ClipOptions": "what a clip is",
    "MixerSettings": "the mixer",
    "AugmentSettings": "augmentation",
    "TrainingSettings": "the loop",
    "MomentSettings": "moments",
    "OptimizeSettings": "many moments",
    "DataBenchSettings": "bench data",
    "SearchBenchSettings": "bench search",
    "StepBenchSettings": "bench step",
}


def parse(command: Command, arguments: Sequence[str]) -> tuple[Any, bool]:
    """A command's settings and whether `--json` was asked for.

    Raises:
        SettingsError: an unknown flag or key, a bad value, something missing.
        SystemExit: after `--help`.
    """
    parser = build(command)
    arguments = [_underscores(argument) for argument in arguments]
    fields = {field.name for field in dataclasses.fields(command.settings)}
    flags = {FLAG_OF_FIELD.get(name, name) for name in fields}
    _check_recipes(arguments, flags)
    try:
        values = vars(parser.parse_args(arguments))
    except argparse.ArgumentError as fault:
        raise SettingsError(_one_line(str(fault), flags, command)) from None
    as_json = bool(values.pop("json"))
    given = {name: values[FLAG_OF_FIELD.get(name, name)] for name in fields}
    return command.settings(**given), as_json


def build(command: Command) -> ArgumentParser:
    """The parser of one command: a group of flags for each group of settings."""
    positional = "".join(f"{name.upper()} " for name in command.positionals)
    parser = ArgumentParser(
        prog=command.program,
        usage=f"{command.program} {positional}[options]",
        description=command.summary,
        epilog=f"example:\n  {command.example}",
        formatter_class=_Help,
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML recipe: any of the options below; flags after it win")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
    hints = typing.get_type_hints(command.settings)
    helps = field_helps(command.settings)
    groups: dict[str, Any] = {}
    for field in _own_first(command.settings):
        owner = _owner(command.settings, field.name)
        title = GROUP_TITLES.get(owner, f"{command.name} options")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], field, hints[field.name], helps[field.name], positional=field.name in command.positionals)
    return parser


def field_helps(settings: type[Any]) -> dict[str, str]:
    """What the docstrings of a settings class and its groups say about each field, ready for argparse; the nearest class wins."""
    helps: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
        # A field's lines stand four to the right, what they go on with stands further.
        for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
            helps[name] = " ".join(text.split()).replace("%", "%%")
    return helps


def _own_first(settings: type[Any]) -> list[dataclasses.Field[Any]]:
    """The command's own fields, then those of its groups, each in the order they were written."""
    fields = list(dataclasses.fields(settings))
    return sorted(fields, key=lambda field: _owner(settings, field.name) in GROUP_TITLES)


def _owner(settings: type[Any], name: str) -> str:
    for owner in settings.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            # A group's field that a command gives another default still belongs to its group.
            return next(
                (base.__name__ for base in owner.__mro__[1:] if name in getattr(base, "__annotations__", {})),
                owner.__name__,
            )
    raise AssertionError(name)


def _add(group: Any, field: dataclasses.Field[Any], hint: Any, text: str, *, positional: bool) -> None:
    required = field.default is dataclasses.MISSING
    name = FLAG_OF_FIELD.get(field.name, field.name)
    if positional:
        group.add_argument(name, type=hint, help=text, metavar=name.upper())
    elif hint in (bool, bool | None):
        group.add_argument(f"--{name}", action=ActionYesNo(no_prefix="no_"), default=field.default, help=text)
    else:
        names = [SHORT[name], f"--{name}"] if name in SHORT else [f"--{name}"]
        default = {} if required else {"default": field.default}
        group.add_argument(*names, type=hint, help=text, required=required, metavar=_metavar(hint), **default)


def _metavar(hint: Any) -> str:
    text = str(getattr(hint, "__name__", hint)) if isinstance(hint, type) else str(hint).replace(" | None", "")
    return {"str": "TEXT", "int": "N", "float": "X"}.get(text, "[X,X]")


def _underscores(argument: str) -> str:
    """`--batch-size` means `--batch_size`; values and single-dash flags stay as they are."""
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _check_recipes(arguments: Sequence[str], flags: set[str]) -> None:
    """Refuses every unknown key of a recipe at once."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        file = Path(value) if flag == "--config" else Path(flag[9:]) if flag.startswith("--config=") else None
        if file is None:
            continue
        try:
            keys = yaml.safe_load(file.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
            raise SettingsError(f"--config {file}: cannot be read as YAML ({' '.join(str(fault).split())})") from None
        if not isinstance(keys, dict):
            raise SettingsError(f"--config {file}: got a {type(keys).__name__}, expected lines of `option: value`")
        unknown = [str(key) for key in keys if str(key) not in flags]
        if unknown:
            raise SettingsError(f"--config {file}: unknown options: {_told(unknown, flags)}")


def _told(unknown: Sequence[str], flags: set[str]) -> str:
    parts = []
    for name in unknown:
        near = difflib.get_close_matches(name, flags, n=1)
        parts.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return ", ".join(parts)


def _one_line(complaint: str, flags: set[str], command: Command) -> str:
    """The parser's complaint as got / expected / what to do."""
    complaint = " ".join(complaint.split())
    see = f"see `{command.program} --help`"
    match = re.search(r'Parser key "(\w+)": (.*)', complaint)
    if match:
        wrong = re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", match[2])
        if wrong:
            return f"--{match[1]}: got {wrong[2]!r}, expected a value of type {wrong[1]}; {see}"
        got = re.search(r"(?:Got|Given) value: (.*?)$", match[2])
        return f"--{match[1]}: got {got[1] if got else match[2]!r}, which does not fit; {see}"
    if "unrecognized arguments" in complaint:
        words = complaint.partition("unrecognized arguments: ")[2].split()
        unknown = [word.partition("=")[0].lstrip("-") for word in words if word.startswith("-")]
        return f"unknown options: {_told(unknown or words, flags)}; {see}"
    if "arguments are required" in complaint:
        names = complaint.rpartition(": ")[2].split(", ")
        shown = [name.upper() if name in command.positionals else f"--{name}" for name in names]
        return f"missing: {', '.join(shown)}; {see}"
    return f"{complaint}; {see}"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the example as it is and says each default once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=112)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        if silent or "default" in text or not action.option_strings:
            return text
        return f"{text} (default: {str(action.default).replace('%', '%%')})"
