"""Where something lies, told from its name alone."""

from __future__ import annotations

from pathlib import Path

from cmmixer.errors import SettingsError

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
