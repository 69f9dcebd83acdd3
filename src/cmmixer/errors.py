"""All exceptions that this package raises on purpose.

    CMMixerError                 base class; exit code 1
    ├── InputError               something the user gave cannot be used; exit code 2
    │   ├── SettingsError        a setting that is unknown, impossible or contradicts another one
    │   ├── DataError            a folder, list or manifest that cannot be read as videos
    │   ├── MediaError           a media file that cannot be used; has a `path` and a short `reason`
    │   ├── CheckpointError      a run or checkpoint that is missing, damaged or of another shape
    │   ├── StoreError           a clip store that is missing, damaged or made with other settings
    │   └── SearchIndexError     an index that is missing, damaged or of another model
    └── InternalError            a bug, or a problem of the machine; exit code 1
        ├── NonFiniteError       a training step gave NaN or infinity; the weights are unchanged
        └── LostProcessError     another process of the same training was killed or failed

A message is one line: where, what was got, what was expected, and what to do.
"""

from __future__ import annotations

from pathlib import Path


class CMMixerError(Exception):
    """Base class of all errors of this package. `exit_code` is the exit code of the command line."""

    exit_code = 1


class InputError(CMMixerError):
    """Something the user gave cannot be used."""

    exit_code = 2


class SettingsError(InputError, ValueError):
    """A setting is unknown, impossible, or contradicts another one."""


class DataError(InputError):
    """A folder, list or manifest cannot be read as videos."""


class MediaError(InputError):
    """A media file cannot be used.

    Attributes:
        path: the file.
        reason: a short machine-readable word, one of `REASONS`, by which reports count.
        message: the message without the path.
    """

    REASONS = (
        "missing",  # no such file
        "not-a-file",  # a directory, a device, a dangling link
        "not-media",  # neither a video nor an audio file by its extension
        "empty",  # zero bytes
        "unreadable",  # not a container that FFmpeg can open
        "no-video",  # no video stream, and video was needed
        "no-audio",  # no audio stream, and audio was needed
        "silent",  # audio below the silence threshold
        "too-short",  # shorter than a clip
        "duplicate",  # the same content as an earlier file
        "time-limit",  # took longer than the limit for one file
        "crashed",  # the decoder process died
    )

    def __init__(self, path: str | Path, reason: str, message: str) -> None:
        if reason not in self.REASONS:
            raise AssertionError(f"unknown reason {reason!r}")
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        # Decoder processes send errors back by pickle, whose default would call the class with one argument.
        return MediaError, (self.path, self.reason, self.message)


class CheckpointError(InputError):
    """A run or checkpoint is missing, damaged or of another shape."""


class StoreError(InputError):
    """A clip store is missing, damaged or was made with other settings."""


class SearchIndexError(InputError):
    """A search index is missing, damaged or belongs to another model."""


class InternalError(CMMixerError):
    """A bug, or a problem of the machine."""


class NonFiniteError(InternalError):
    """A training step gave NaN or infinity and was refused before it reached the weights."""


class LostProcessError(InternalError):
    """Another process of the same training was killed or failed; the last checkpoint is valid."""
