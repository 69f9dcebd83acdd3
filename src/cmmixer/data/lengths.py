"""How long films are, told by their containers: nothing is decoded, so that a whole list is looked through in seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from cmmixer.data.manifest import Entry
from cmmixer.data.moments import stretch_of
from cmmixer.errors import MediaError
from cmmixer.media.decode import Film
from cmmixer.media.isolate import map_isolated
from cmmixer.progress import Progress

# As where films are decoded: a file that hangs its reader is ended from outside, a little later than it should give up.
_GRACE_SECONDS = 5.0


def entry_seconds(
    entries: Sequence[Entry], *, workers: int, file_seconds: float, progress: Progress
) -> list[float | None]:
    """Length of every entry: of its stretch of the film, and of the shorter of film and sound file.

    None where it cannot be read; whoever decodes it will say why.
    """
    measure = partial(_seconds, file_seconds=file_seconds)
    found: list[float | None] = []
    for _, result in map_isolated(measure, entries, workers=workers, seconds_each=file_seconds + _GRACE_SECONDS):
        found.append(None if isinstance(result, MediaError) else result)
        progress.advance()
    return found


def _seconds(entry: Entry, file_seconds: float) -> float:
    """Runs in a decoder process.

    Raises:
        MediaError: it cannot be opened, or its stretch lies behind its end.
    """
    deadline = time.monotonic() + file_seconds
    with ExitStack() as files:
        film = files.enter_context(Film.open(entry.path, file_seconds))
        seconds = film.info.duration_seconds
        if entry.audio_path is not None:
            sound = files.enter_context(Film.open(entry.audio_path, max(0.1, deadline - time.monotonic())))
            seconds = min(seconds, sound.info.duration_seconds)
    return stretch_of(entry, seconds).duration_seconds
