"""What all settings share: checks of values, conversion from JSON and to a command line, and `s3://` addresses."""

from __future__ import annotations

import dataclasses
import difflib
import json
import shlex
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cmmixer.errors import SettingsError

Settings = TypeVar("Settings")

# Flags whose name is a keyword of Python.
FLAG_OF_FIELD = {"target": "for"}

# Fields that are given without a flag, in order.
POSITIONALS = {
    "dub": ("video", "audio"),
    "evaluate": ("model",),
    "inspect": ("model",),
    "probe": ("model",),
    "search": ("query",),
}

SCHEME = "s3://"

# Why an index, a run and videos must be on a local disk.
INDEX_ELSEWHERE = (
    "an index must be on a disk; on object storage `cmmixer embed --out s3://...` writes the vectors as a table"
)
RUN_ELSEWHERE = "a run must be on a disk; copy it when it is finished"
VIDEOS_ELSEWHERE = "videos are read from files; mount the bucket, or copy them"


class ChoiceError(SettingsError):
    """A value is not one of those that a setting may have.

    Attributes:
        option: the setting.
        got: its value.
        choices: the values that it may have.
    """

    def __init__(self, option: str, got: str, choices: Iterable[str]) -> None:
        self.option, self.got, self.choices = option, got, tuple(choices)
        near = difflib.get_close_matches(got, self.choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"--{option}: got {got!r}, expected one of {', '.join(self.choices)}{hint}")

    def __reduce__(self) -> tuple[type[ChoiceError], tuple[str, str, tuple[str, ...]]]:
        # Errors travel between processes; the default pickling would pass the message alone.
        return ChoiceError, (self.option, self.got, self.choices)


def one_of(option: str, got: str, choices: Iterable[str]) -> None:
    """Checks that a value is one of `choices`.

    Raises:
        ChoiceError: it is not; the message names the closest choice.
    """
    choices = tuple(choices)
    if got not in choices:
        raise ChoiceError(option, got, choices)


def within(
    option: str, got: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Checks that a number is in [low, high]; `open_low` and `open_high` exclude an end.

    Raises:
        SettingsError: it is not.
    """
    above = got > low if open_low else got >= low
    below = got < high if open_high else got <= high
    if not (above and below):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise SettingsError(f"--{option}: got {got}, expected a value in {left}{low}, {high}{right}")


def at_least(option: str, got: float, low: float) -> None:
    """Checks that a number is `low` or more.

    Raises:
        SettingsError: it is not.
    """
    if not got >= low:
        raise SettingsError(f"--{option}: got {got}, expected {low} or more")


def is_remote(place: object) -> bool:
    """Returns whether a location is an address of object storage."""
    return isinstance(place, str) and place.startswith(SCHEME)


def refuse_remote(option: str, place: str | Path | None, instead: str) -> None:
    """Checks that a location is not an `s3://` address, where only local files will do.

    Raises:
        SettingsError: it is; the message ends with `instead`.
    """
    if is_remote(place):
        raise SettingsError(f"--{option}: got {place}, expected a path on this machine; {instead}")


def pick(group: type[Settings], settings: object) -> Settings:
    """Returns one group of a command's settings; the class of a command inherits its groups."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(group)}  # type: ignore[arg-type]
    return group(**values)


def command_line(command: str, settings: Any) -> str:
    """Returns the command line that gives these settings; values at their default are left out."""
    words = ["cmmixer", command]
    positionals = POSITIONALS.get(command, ())
    words += [str(getattr(settings, name)) for name in positionals]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in positionals and (field.default is dataclasses.MISSING or value != field.default):
            words += _flag(FLAG_OF_FIELD.get(field.name, field.name), value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    return [f"--{name}", str(list(value)) if isinstance(value, tuple) else str(value)]


def from_dict(group: type[Settings], values: Any, where: str) -> Settings:
    """Builds a dataclass from JSON values, including nested dataclasses, dictionaries and tuples.

    Args:
        group: the dataclass.
        values: JSON values.
        where: starts the error message, such as the name of a file; may be empty.

    Raises:
        SettingsError: unknown keys, missing keys or values of the wrong type, all named at once, each unknown key with the
            closest known one; or a value that the dataclass itself refuses.
    """
    prefix = f"{where}: " if where else ""
    problems = _Problems()
    try:
        built: Settings = _built(group, values, "", problems)
    except ValueError as error:
        raise SettingsError(f"{prefix}{error}") from error
    if message := problems.message:
        raise SettingsError(prefix + message)
    return built


@dataclass
class _Problems:
    """What is wrong with the JSON values of a dataclass."""

    unknown: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: _Problems) -> None:
        self.unknown += other.unknown
        self.missing += other.missing
        self.wrong += other.wrong

    @property
    def message(self) -> str:
        parts = [f"unknown keys: {', '.join(self.unknown)}"] if self.unknown else []
        parts += [f"missing keys: {', '.join(self.missing)}"] if self.missing else []
        return "; ".join(parts + self.wrong)


def _built(hint: Any, value: Any, key: str, problems: _Problems) -> Any:
    """Converts a value to the type `hint`. If it does not fit, adds a line to the problems and returns None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        attempts = [_Problems() for _ in arguments]
        for argument, attempt in zip(arguments, attempts, strict=True):
            built = _built(argument, value, key, attempt)
            if not attempt.message:
                return built
        problems.add(attempts[0])
        return None
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _built_fields(hint, value, key, problems)
    if origin is dict and isinstance(value, dict):
        return {name: _built(arguments[1], each, _below(key, name), problems) for name, each in value.items()}
    # JSON has no tuples.
    if origin in (tuple, list) and isinstance(value, list | tuple):
        items = arguments if origin is tuple and arguments[-1] is not ... else [arguments[0]] * len(value)
        if len(items) == len(value):
            return origin(_built(item, each, key, problems) for item, each in zip(items, value, strict=True))
    if hint is float and type(value) is int:
        return value
    if type(value) is hint:
        return value
    expected = "object" if origin is dict or dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))
    problems.wrong.append(f"{key or 'value'}: got {json.dumps(value, default=str)[:80]}, expected {expected}")
    return None


def _built_fields(group: Any, values: dict[str, Any], key: str, problems: _Problems) -> Any:
    fields = {field.name: field for field in dataclasses.fields(group)}
    before = len(problems.message)
    near = {name: difflib.get_close_matches(name, fields, n=1) for name in sorted(set(values) - set(fields))}
    problems.unknown += [
        _below(key, name) + (f" (did you mean {best[0]}?)" if best else "") for name, best in near.items()
    ]
    required = [name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING]
    # A misspelled key is named once, not also as a missing one.
    misspelled = {best[0] for best in near.values() if best}
    problems.missing += [_below(key, name) for name in required if name not in values and name not in misspelled]
    hints = typing.get_type_hints(group)
    built = {
        name: _built(hints[name], value, _below(key, name), problems)
        for name, value in values.items()
        if name in fields
    }
    return group(**built) if len(problems.message) == before else None


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
