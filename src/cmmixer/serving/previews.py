"""Thumbnails and waveforms, each made once: decoded in other processes, kept on disk under the name of their content."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from cmmixer.atomic import TEMPORARY, explain_full_disk, write_atomically
from cmmixer.errors import MediaError, SearchIndexError
from cmmixer.media.isolate import IsolatedPool
from cmmixer.media.previews import PeaksTask, ThumbnailTask, peaks, thumbnail
from cmmixer.serving import schema
from cmmixer.serving.problems import ProblemError

THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 270, 480
LONGEST_PEAKS_SECONDS = 1800.0
# Instants closer than this share a thumbnail.
_GRID_SECONDS = 0.1
_PRUNE_EVERY = 200
# Bump when thumbnails or waveforms are made in another way.
_VERSION = 1


class Previews:
    """Makes previews and remembers them."""

    def __init__(self, folder: Path, most_mb: int, pool: IsolatedPool, file_seconds: float) -> None:
        """`folder` is made if it is not there.

        Raises:
            SearchIndexError: it cannot be written.
        """
        self.folder = folder
        self._most_bytes = most_mb << 20
        self._pool = pool
        self._file_seconds = file_seconds
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._written = 0
        with explain_full_disk(folder, SearchIndexError):
            folder.mkdir(parents=True, exist_ok=True)

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
        task = ThumbnailTask(_text(path), instant, *shape, self._file_seconds)
        key = _key("thumbnail", content, f"{instant:.1f}", *map(str, shape))
        return self._kept(key, ".jpg", lambda: self._pool.run(thumbnail, task, seconds=self._file_seconds), name)

    def peaks(
        self, path: str | bytes, content: str, start_seconds: float, end_seconds: float, bins: int, name: str
    ) -> schema.Peaks:
        """The waveform of a stretch.

        Raises:
            ProblemError: the stretch is empty or too long, there is no sound, or it cannot be decoded.
        """
        if not 0.01 <= end_seconds - start_seconds <= LONGEST_PEAKS_SECONDS:
            raise ProblemError(
                "range",
                f"{name}: got {start_seconds:g} .. {end_seconds:g} s, expected at most {LONGEST_PEAKS_SECONDS:g} s of it",
            )
        task = PeaksTask(_text(path), start_seconds, end_seconds, bins, self._file_seconds)
        key = _key("peaks", content, f"{start_seconds:.3f}", f"{end_seconds:.3f}", str(bins))

        def make() -> bytes:
            low, high = self._pool.run(peaks, task, seconds=self._file_seconds)
            made = schema.Peaks(start_seconds=start_seconds, end_seconds=end_seconds, low=low, high=high)
            return made.model_dump_json().encode()

        return schema.Peaks.model_validate_json(self._kept(key, ".json", make, name))

    def _kept(self, key: str, ending: str, make: Callable[[], bytes], name: str) -> bytes:
        path = self.folder / key[:2] / (key + ending)
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            try:
                made = path.read_bytes()
                os.utime(path)
            except OSError:
                made = _told(make, name)
                self._keep(path, made)
        with self._lock:
            self._making.pop(key, None)
        return made

    def _keep(self, path: Path, made: bytes) -> None:
        """A cache that cannot be written is slow, not wrong."""
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, made)
        except OSError:
            return
        with self._lock:
            self._written += 1
            prune = self._written % _PRUNE_EVERY == 0
        if prune:
            self.prune()

    def prune(self) -> None:
        """Removes what was not used for longest, until the rest is not too much."""
        files = []
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue
            if not path.name.startswith(TEMPORARY):
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _told(make: Callable[[], bytes], name: str) -> bytes:
    try:
        return make()
    except MediaError as fault:
        kind = "missing-sense" if fault.reason in ("no-picture", "no-sound") else "unusable-media"
        raise ProblemError(kind, f"{name}: {fault.message}", reason=fault.reason) from fault


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *parts]).encode()).hexdigest()


def _text(path: str | bytes) -> str:
    return os.fsdecode(path)
