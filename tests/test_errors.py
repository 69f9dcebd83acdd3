"""Errors: the tree, exit codes, and media errors that travel between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cmmixer import errors
from cmmixer.errors import CMMixerError, InputError, InternalError, MediaError, SettingsError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CMMixerError)]


@pytest.mark.parametrize("error", [value for value in CLASSES if value is not CMMixerError])
def test_exit_code_tells_input_from_internal_errors(error: type[CMMixerError]) -> None:
    assert issubclass(error, InputError) is not issubclass(error, InternalError)
    assert error.exit_code == (2 if issubclass(error, InputError) else 1)


def test_module_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    lines = [line for line in errors.__doc__.splitlines() if "Error  " in line]
    drawn = {line.strip("│├└─ ").split()[0]: line.index(line.strip("│├└─ ")[0]) for line in lines}
    assert drawn.keys() == {error.__name__ for error in CLASSES}
    for error in CLASSES:
        # Four columns for each level.
        assert drawn[error.__name__] == 4 * (error.__mro__.index(CMMixerError) + 1)


def test_settings_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="--epochs"):
        raise SettingsError("--epochs: got 0, expected 1 or more")


def test_media_error_names_the_file_and_the_reason() -> None:
    error = MediaError(Path("videos") / "a.mp4", "no-audio", "no audio stream")
    assert str(error) == "videos/a.mp4: no audio stream"
    assert (error.path, error.reason, error.message) == ("videos/a.mp4", "no-audio", "no audio stream")
    assert error.exit_code == 2


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_media_error_survives_pickling(protocol: int) -> None:
    error = MediaError("a.mp4", "too-short", "got 0.5 s, expected 4 s")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is MediaError
    assert (str(copy), copy.path, copy.reason, copy.message) == (
        "a.mp4: got 0.5 s, expected 4 s",
        "a.mp4",
        "too-short",
        "got 0.5 s, expected 4 s",
    )


def test_unknown_reason_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="unknown reason 'broken'"):
        MediaError("a.mp4", "broken", "")


def test_reasons_are_distinct_machine_readable_words() -> None:
    assert len(set(MediaError.REASONS)) == len(MediaError.REASONS)
    assert all(reason.replace("-", "").isalpha() and reason.islower() for reason in MediaError.REASONS)
