"""Files that are made once and kept on disk under the name of their content; what was not used for longest goes first."""

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
from cmmixer.storage.files import TEMPORARY, explain_full_disk, write_atomically

_PRUNE_EVERY = 200
# Also as soon as so much of what is allowed has been written since.
_PRUNE_PART = 0.05
# What a killed process left half written; nothing takes as long.
_LEFTOVER_SECONDS = 3600.0


class Cache:
    """A folder of files that can all be made again."""

    def __init__(self, folder: Path, most_mb: int) -> None:
        """`folder` is made if it is not there.

        Raises:
            SearchIndexError: it cannot be written.
        """
        self.folder = folder
        self._most_bytes = most_mb << 20
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._written = self._written_bytes = 0
        with explain_full_disk(folder, SearchIndexError):
            folder.mkdir(parents=True, exist_ok=True)

    def content(self, key: str, ending: str, make: Callable[[], bytes]) -> bytes:
        """What is kept under a key, or else what `make` gives. A cache that cannot be written is slow, not wrong."""
        path = self._path(key, ending)
        with self._only_one(key):
            try:
                made = path.read_bytes()
                os.utime(path)
            except OSError:
                made = make()
                try:
                    path.parent.mkdir(exist_ok=True)
                    write_atomically(path, made)
                except OSError:
                    return made
                self._count(len(made))
        return made

    def file(self, key: str, ending: str, write: Callable[[Path], None]) -> Path:
        """The file that is kept under a key, or else the one that `write` writes.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(key, ending)
        with self._only_one(key):
            try:
                os.utime(path)
            except OSError:
                path.parent.mkdir(exist_ok=True)
                draft = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
                try:
                    write(draft)
                    draft.replace(path)
                finally:
                    draft.unlink(missing_ok=True)
                self._count(path.stat().st_size)
        return path

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
            elif time.time() - status.st_mtime > _LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: str, ending: str) -> Path:
        return self.folder / key[:2] / (key + ending)

    @contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        """Whoever wants the same at the same time waits for the one who makes it."""
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._making.pop(key, None)

    def _count(self, size: int) -> None:
        with self._lock:
            self._written += 1
            self._written_bytes += size
            due = self._written >= _PRUNE_EVERY or self._written_bytes >= _PRUNE_PART * self._most_bytes
            if due:
                self._written = self._written_bytes = 0
        if due:
            self.prune()


def key_of(*parts: str) -> str:
    """The key of something that these texts say all about."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
