"""The exception tree, drawn once.

    CMMixerError                 anything this package raises on purpose
    ├── InputError               the user's input; exit code 2
    │   ├── SettingsError        an unknown, contradictory or impossible setting
    │   ├── DataError            a folder, list or manifest that cannot be read as films
    │   ├── MediaError           one file that cannot be used; carries `path` and a short `reason`
    │   ├── CheckpointError      a run or checkpoint that is missing, damaged or of another shape
    │   ├── StoreError           a clip store that is missing, damaged or made with other settings
    │   └── SearchIndexError     an index that is missing, damaged or of another model
    └── InternalError            ours; exit code 1
        ├── NonFiniteError       a training step that gave NaN or infinity; the weights were not touched
        └── LostProcessError     another process of the same training ended before its time

A message is one line: what was got, what was expected, where, and what to do.
"""

from __future__ import annotations

from pathlib import Path


class CMMixerError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(CMMixerError):
    """Something the user gave cannot be used."""

    exit_code = 2


class SettingsError(InputError, ValueError):
    """A setting is unknown, contradicts another one, or cannot work."""


class DataError(InputError):
    """A folder, list or manifest cannot be read as films."""


class MediaError(InputError):
    """One media file cannot be used.

    Attributes:
        path: the file.
        reason: a short machine-readable word, one of `REASONS`; reports count by it.
    """

    REASONS = (
        "missing",  # no such file
        "not-a-file",  # a directory, a device, a dangling link
        "not-media",  # its ending says that it is neither film nor sound
        "empty",  # zero bytes
        "unreadable",  # no container FFmpeg knows, or damaged beyond opening
        "no-picture",  # no picture stream, and a picture was needed
        "no-sound",  # no sound stream, and a sound was needed
        "silent",  # sound below the loudness floor
        "too-short",  # shorter than a clip
        "duplicate",  # the same content as an earlier file
        "time-limit",  # took longer than the limit for one file
        "crashed",  # the decoder's process died
    )

    def __init__(self, path: str | Path, reason: str, message: str) -> None:
        if reason not in self.REASONS:
            raise AssertionError(f"unknown reason {reason!r}")
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        # Errors travel back from decoder processes; the default pickling would lose the arguments.
        return MediaError, (self.path, self.reason, self.message)


class CheckpointError(InputError):
    """A run or checkpoint is missing, damaged or of another shape."""


class StoreError(InputError):
    """A clip store is missing, damaged or was made with other settings."""


class SearchIndexError(InputError):
    """A search index is missing, damaged or belongs to another model."""


class InternalError(CMMixerError):
    """A fault of ours, or of the machine."""


class NonFiniteError(InternalError):
    """A training step gave NaN or infinity and was refused before it reached the weights."""


class LostProcessError(InternalError):
    """Another process of the same training ended before its time; the last checkpoint is sound."""
