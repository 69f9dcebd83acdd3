"""How settings stand on a command line, and back: for the parser, and for reports that say what was run."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

# Flags whose name is a word of Python.
FLAG_OF_FIELD = {"target": "for"}
# The fields that a command takes without a flag, in their order.
POSITIONALS = {
    "bench": ("what",),
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
