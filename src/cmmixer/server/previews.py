"""Thumbnails and waveforms: decoded in other processes and kept in the cache on disk."""

from __future__ import annotations

import os

from cmmixer.media.sandbox import SandboxPool
from cmmixer.media.thumbnails import PeaksTask, ThumbnailTask, peaks, thumbnail
from cmmixer.server import schemas
from cmmixer.server.cache import Cache, key_of
from cmmixer.server.problems import ProblemError, naming

THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 270, 480
MAX_PEAKS_SECONDS = 1800.0
# Times closer than this share a thumbnail.
_GRID_SECONDS = 0.1
# Bump when previews are made in another way: it is part of their key in the cache.
_VERSION = "1"


class Previews:
    """Makes previews and caches them."""

    def __init__(self, cache: Cache, pool: SandboxPool, file_seconds: float) -> None:
        self._cache = cache
        self._pool = pool
        self._file_seconds = file_seconds

    def thumbnail(self, path: str | bytes, content_key: str, seconds: float, name: str) -> bytes:
        """Returns the frame at a time of a video, as JPEG.

        Args:
            path: of the file.
            content_key: identifies the content of the file.
            seconds: time in the file.
            name: of the file for clients.

        Raises:
            ProblemError: the file has no video, or cannot be decoded.
        """
        snapped = round(seconds / _GRID_SECONDS) * _GRID_SECONDS
        shape = (THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH)
        task = ThumbnailTask(os.fsdecode(path), snapped, *shape, self._file_seconds)
        key = key_of(_VERSION, "thumbnail", content_key, f"{snapped:.1f}", *map(str, shape))
        with naming(name):
            return self._cache.get_bytes(
                key, ".jpg", lambda: self._pool.run(thumbnail, task, seconds=self._file_seconds)
            )

    def peaks(
        self, path: str | bytes, content_key: str, start_seconds: float, end_seconds: float, bins: int, name: str
    ) -> schemas.Peaks:
        """Returns the waveform of a span of a file.

        Args:
            path: of the file.
            content_key: identifies the content of the file.
            start_seconds, end_seconds: the span.
            bins: number of equal parts.
            name: of the file for clients.

        Raises:
            ProblemError: the span is empty or too long, the file has no audio, or it cannot be decoded.
        """
        if not 0.01 <= end_seconds - start_seconds <= MAX_PEAKS_SECONDS:
            raise ProblemError(
                "out-of-range",
                f"{name}: got {start_seconds:g} .. {end_seconds:g} s, expected a span of 0.01 to {MAX_PEAKS_SECONDS:g} s inside the file",
            )
        task = PeaksTask(os.fsdecode(path), start_seconds, end_seconds, bins, self._file_seconds)
        key = key_of(_VERSION, "peaks", content_key, f"{start_seconds:.3f}", f"{end_seconds:.3f}", str(bins))

        def compute() -> bytes:
            low, high = self._pool.run(peaks, task, seconds=self._file_seconds)
            waveform = schemas.Peaks(start_seconds=start_seconds, end_seconds=end_seconds, low=low, high=high)
            return waveform.model_dump_json().encode()

        with naming(name):
            return schemas.Peaks.model_validate_json(self._cache.get_bytes(key, ".json", compute))
