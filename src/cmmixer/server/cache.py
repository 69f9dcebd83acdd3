"""A cache on disk for previews and conversions, which drops the least recently used files first."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cmmixer.errors import SearchIndexError
from cmmixer.storage.files import TEMPORARY, atomic_path, explain_full_disk, write_atomically

_PRUNE_EVERY = 200
# Also as soon as this share of the allowed size has been written.
_PRUNE_SHARE = 0.05
# A temporary file this old was left by a killed process; no writing takes as long.
_LEFTOVER_SECONDS = 3600.0


class Cache:
    """A folder of files that can all be computed again.

    A key is computed only once at a time: other threads that ask for it wait for the result.
    """

    def __init__(self, folder: Path, max_mb: int) -> None:
        """Creates the folder if it does not exist.

        Args:
            folder: where the files are.
            max_mb: size that the cache is pruned to.

        Raises:
            SearchIndexError: the disk is full, or the folder may not be written.
        """
        self.folder = folder
        self._max_bytes = max_mb << 20
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._written = self._written_bytes = 0
        with explain_full_disk(folder, SearchIndexError):
            folder.mkdir(parents=True, exist_ok=True)

    def get_bytes(self, key: str, suffix: str, compute: Callable[[], bytes]) -> bytes:
        """Returns the cached bytes of a key, computed and stored if they are missing.

        Bytes that cannot be stored are returned all the same: a full disk makes the cache slow, not wrong.
        """
        path = self._path(key, suffix)
        with self._locked(key):
            try:
                content = path.read_bytes()
                os.utime(path)
            except OSError:
                content = compute()
                try:
                    path.parent.mkdir(exist_ok=True)
                    write_atomically(path, content)
                except OSError:
                    return content
                self._count(len(content))
        return content

    def get_file(self, key: str, suffix: str, write: Callable[[Path], None]) -> Path:
        """Returns the cached file of a key, written by `write` if it is missing.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(key, suffix)
        with self._locked(key):
            try:
                os.utime(path)
            except OSError:
                path.parent.mkdir(exist_ok=True)
                with atomic_path(path) as draft:
                    write(draft)
                self._count(path.stat().st_size)
        return path

    def prune(self) -> None:
        """Removes the least recently used files until the cache is within its size."""
        files = []
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue
            if not path.name.startswith(TEMPORARY):
                files.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / key[:2] / (key + suffix)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Holds the lock of a key."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._locks.pop(key, None)

    def _count(self, size: int) -> None:
        with self._lock:
            self._written += 1
            self._written_bytes += size
            due = self._written >= _PRUNE_EVERY or self._written_bytes >= _PRUNE_SHARE * self._max_bytes
            if due:
                self._written = self._written_bytes = 0
        if due:
            self.prune()


def key_of(*parts: str) -> str:
    """Returns the key of a result that depends on nothing but these texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
