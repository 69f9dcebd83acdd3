"""The few checks that settings classes share; each raises `SettingsError` with got, expected, where.

How settings stand on a command line, and back: for the parser, and for reports that say what was run.

Where something lies, told from its name alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from cmmixer.errors import SettingsError

Settings = TypeVar("Settings")


def one_of(option: str, got: str, choices: Iterable[str]) -> None:
    """Refuses a value outside `choices`, naming the nearest good one."""
    choices = list(choices)
    if got not in choices:
        near = difflib.get_close_matches(got, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"--{option}: got {got!r}, expected one of {', '.join(choices)}{hint}")


def within(
    option: str, got: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuses a number outside [low, high]; an end is left out where it is said to be open."""
    above = got > low if open_low else got >= low
    below = got < high if open_high else got <= high
    if not (above and below):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise SettingsError(f"--{option}: got {got}, expected a value in {left}{low}, {high}{right}")


def at_least(option: str, got: float, low: float) -> None:
    """Refuses a number below `low`."""
    if not got >= low:
        raise SettingsError(f"--{option}: got {got}, expected {low} or more")


def pick(group: type[Settings], settings: object) -> Settings:
    """The fields of one group, taken out of a command's settings (a command's class inherits its groups)."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(group)}  # type: ignore[arg-type]
    return group(**values)


def from_dict(group: type[Settings], values: dict[str, Any], where: str) -> Settings:
    """Builds a settings group from a card's JSON; unknown keys are refused all at once, with the nearest good one."""
    known = {field.name for field in dataclasses.fields(group)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        near = {key: difflib.get_close_matches(key, known, n=1) for key in unknown}
        told = ", ".join(key + (f" (did you mean {near[key][0]}?)" if near[key] else "") for key in unknown)
        raise SettingsError(f"{where}: unknown settings: {told}")
    # JSON has no tuples.
    return group(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


# Flags whose name is a word of Python.
FLAG_OF_FIELD = {"target": "for"}

# The fields that a command takes without a flag, in their order.
POSITIONALS = {
    "dub": ("film", "sound"),
    "evaluate": ("model",),
    "inspect": ("model",),
    "probe": ("model",),
    "search": ("query",),
}


def command_line(command: str, settings: Any) -> str:
    """The line to type for these settings; what is left at its default is left out."""
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


SCHEME = "s3://"


def is_remote(place: object) -> bool:
    """Whether a name is an address of object storage."""
    return isinstance(place, str) and place.startswith(SCHEME)


# Why an index, and a run, must lie on a disk.
INDEX_ELSEWHERE = "an index lies on a disk; on object storage `cmmixer embed --out s3://...` keeps vectors as a table"

RUN_ELSEWHERE = "a run lies on a disk; copy it when it is done"

FILMS_ELSEWHERE = "films are read from files; mount the bucket, or copy them"


def refuse_remote(option: str, place: str | Path | None, instead: str) -> None:
    """Refuses an `s3://` address where only files of this machine will do.

    Raises:
        SettingsError: says what to do instead.
    """
    if is_remote(place):
        raise SettingsError(f"--{option}: got {place}, expected a place of this machine; {instead}")
