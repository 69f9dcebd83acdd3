"""From settings classes to flags, and from the argument parser's errors to one clear line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser

from cmmixer.cli.commands import Command
from cmmixer.config.base import FLAG_OF_FIELD
from cmmixer.config.fields import field_helps
from cmmixer.errors import SettingsError

SHORT = {"k": "-k", "out": "-o"}
# Headings of the flags that a command shares with others, by the settings class that has them.
GROUP_TITLES = {
    "DataSettings": "data",
    "ClipOptions": "clip geometry",
    "ClusterSettings": "cluster",
    "MixerSettings": "mixer",
    "AugmentSettings": "augmentation",
    "TrainingSettings": "training loop",
    "SegmentSettings": "moments",
    "MomentSettings": "embedding",
    "OptimizeSettings": "optimization",
    "VideoBenchSettings": "benchmark of data and embedding",
    "SearchBenchSettings": "benchmark of search",
    "StepBenchSettings": "benchmark of a training step",
}


def parse(command: Command, arguments: Sequence[str]) -> tuple[Any, bool]:
    """Returns a command's settings, and whether `--json` was given.

    Raises:
        SettingsError: an unknown flag or key, a bad value, or something missing.
        SystemExit: after `--help`.
    """
    parser = build(command)
    arguments = [_underscores(argument) for argument in arguments]
    fields = {field.name for field in dataclasses.fields(command.settings)}
    flags = {FLAG_OF_FIELD.get(name, name) for name in fields}
    _check_recipes(arguments, flags)
    try:
        values = vars(parser.parse_args(arguments))
    except argparse.ArgumentError as error:
        raise SettingsError(_one_line(str(error), flags, command)) from None
    as_json = bool(values.pop("json"))
    given = {name: values[FLAG_OF_FIELD.get(name, name)] for name in fields}
    return command.settings(**given), as_json


def build(command: Command) -> ArgumentParser:
    """Builds the parser of a command, with a group of flags for each group of settings."""
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
    parser.add_argument("--config", action="config", help="YAML recipe with any of the options below; later flags win")
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    hints = typing.get_type_hints(command.settings)
    helps = {name: text.replace("%", "%%") for name, text in field_helps(command.settings).items()}
    groups: dict[str, Any] = {}
    for field in _own_first(command.settings):
        owner = _owner(command.settings, field.name)
        title = GROUP_TITLES.get(owner, f"{command.name} options")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], field, hints[field.name], helps[field.name], positional=field.name in command.positionals)
    return parser


def _own_first(settings: type[Any]) -> list[dataclasses.Field[Any]]:
    """Returns the command's own fields, then those of its groups, each in the order of their definition."""
    fields = list(dataclasses.fields(settings))
    return sorted(fields, key=lambda field: _owner(settings, field.name) in GROUP_TITLES)


def _owner(settings: type[Any], name: str) -> str:
    """Returns the name of the class that a field belongs to."""
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
    """Turns `--batch-size` into `--batch_size`; values and single-dash flags stay unchanged."""
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _check_recipes(arguments: Sequence[str], flags: set[str]) -> None:
    """Refuses all unknown keys of a recipe at once; the parser itself would name only the first."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        file = Path(value) if flag == "--config" else Path(flag[9:]) if flag.startswith("--config=") else None
        if file is None:
            continue
        try:
            keys = yaml.safe_load(file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"--config {file}: cannot be read as YAML ({' '.join(str(error).split())})") from None
        if not isinstance(keys, dict):
            got = "is empty" if keys is None else f"got a {type(keys).__name__}"
            raise SettingsError(f"--config {file}: {got}, expected lines of `option: value`")
        unknown = [str(key) for key in keys if str(key) not in flags]
        if unknown:
            raise SettingsError(f"--config {file}: unknown options: {_with_hints(unknown, flags)}")


def _with_hints(unknown: Iterable[str], flags: set[str]) -> str:
    parts = []
    for name in unknown:
        near = difflib.get_close_matches(name, flags, n=1)
        parts.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return ", ".join(parts)


def _one_line(message: str, flags: set[str], command: Command) -> str:
    """Returns the parser's error message as: got, expected, what to do."""
    message = " ".join(message.split())
    see = f"see `{command.program} --help`"
    match = re.search(r'Parser key "(\w+)": (.*)', message)
    if match:
        wrong = re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", match[2])
        if wrong:
            return f"--{match[1]}: got {wrong[2]!r}, expected a value of type {wrong[1]}; {see}"
        got = re.search(r"(?:Got|Given) value: (.*?)$", match[2])
        return f"--{match[1]}: got {got[1] if got else match[2]!r}, which does not fit; {see}"
    if "unrecognized arguments" in message:
        words = message.partition("unrecognized arguments: ")[2].split()
        unknown = [word.partition("=")[0].lstrip("-") for word in words if word.startswith("-")]
        return f"unknown options: {_with_hints(unknown or words, flags)}; {see}"
    if "arguments are required" in message:
        names = message.rpartition(": ")[2].split(", ")
        shown = [name.upper() if name in command.positionals else f"--{name}" for name in names]
        return f"missing: {', '.join(shown)}; {see}"
    return f"{message}; {see}"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the example, and states each default once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=112)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        if silent or "default" in text or not action.option_strings:
            return text
        return f"{text} (default: {str(action.default).replace('%', '%%')})"
