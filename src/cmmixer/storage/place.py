"""Where something lies, told from its name alone."""

from __future__ import annotations

from pathlib import Path

from cmmixer.errors import SettingsError

SCHEME = "s3://"


def is_remote(place: object) -> bool:
    """Whether a name is an address of object storage."""
    return isinstance(place, str) and place.startswith(SCHEME)


def refuse_remote(option: str, place: str | Path | None, instead: str) -> None:
    """Refuses an `s3://` address where only files of this machine will do.

    Raises:
        SettingsError: says what to do instead.
    """
    if is_remote(place):
        raise SettingsError(f"--{option}: got {place}, expected a place of this machine; {instead}")
