"""Thumbnails and waveforms, each made once: decoded in other processes, kept on disk under the name of their content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cmmixer.errors import MediaError
from cmmixer.media.sandbox import IsolatedPool
from cmmixer.media.thumbnails import PeaksTask, ThumbnailTask, peaks, thumbnail
from cmmixer.server import schemas
from cmmixer.server.cache import Cache, key_of
from cmmixer.server.problems import ProblemError

THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 270, 480
LONGEST_PEAKS_SECONDS = 1800.0
# Instants closer than this share a thumbnail.
_GRID_SECONDS = 0.1
# Bump when thumbnails or waveforms are made in another way.
_VERSION = "1"


class Previews:
    """Makes previews and remembers them."""

    def __init__(self, cache: Cache, pool: IsolatedPool, file_seconds: float) -> None:
        self._cache = cache
        self._pool = pool
        self._file_seconds = file_seconds

    def thumbnail(self, path: str | bytes, content: str, seconds: float, name: str) -> bytes:
        """The picture at an instant, as JPEG.

        Args:
            path: the file.
            content: names what is in it; another content has another thumbnail.
            seconds: the instant.
            name: of the file, for complaints.

        Raises:
            ProblemError: it has no picture there, or cannot be decoded.
        """
        instant = round(seconds / _GRID_SECONDS) * _GRID_SECONDS
        shape = (THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH)
        task = ThumbnailTask(os.fsdecode(path), instant, *shape, self._file_seconds)
        key = key_of(_VERSION, "thumbnail", content, f"{instant:.1f}", *map(str, shape))
        with told(name):
            return self._cache.content(key, ".jpg", lambda: self._pool.run(thumbnail, task, seconds=self._file_seconds))

    def peaks(
        self, path: str | bytes, content: str, start_seconds: float, end_seconds: float, bins: int, name: str
    ) -> schemas.Peaks:
        """The waveform of a stretch.

        Raises:
            ProblemError: the stretch is empty or too long, there is no sound, or it cannot be decoded.
        """
        if not 0.01 <= end_seconds - start_seconds <= LONGEST_PEAKS_SECONDS:
            raise ProblemError(
                "range",
                f"{name}: got {start_seconds:g} .. {end_seconds:g} s, expected at most {LONGEST_PEAKS_SECONDS:g} s of it",
            )
        task = PeaksTask(os.fsdecode(path), start_seconds, end_seconds, bins, self._file_seconds)
        key = key_of(_VERSION, "peaks", content, f"{start_seconds:.3f}", f"{end_seconds:.3f}", str(bins))

        def make() -> bytes:
            low, high = self._pool.run(peaks, task, seconds=self._file_seconds)
            made = schemas.Peaks(start_seconds=start_seconds, end_seconds=end_seconds, low=low, high=high)
            return made.model_dump_json().encode()

        with told(name):
            return schemas.Peaks.model_validate_json(self._cache.content(key, ".json", make))


@contextmanager
def told(name: str) -> Iterator[None]:
    """Complaints about a file name it as it is known outside."""
    try:
        yield
    except MediaError as fault:
        kind = "missing-sense" if fault.reason in ("no-picture", "no-sound") else "unusable-media"
        raise ProblemError(kind, f"{name}: {fault.message}", reason=fault.reason) from fault
