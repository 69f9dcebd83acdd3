"""Temporary folders that go with the process that made them; what a killed one left goes when the next one is made."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK, _CONTENT = ".lock", "content"


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new empty folder in the system's place for such, removed at the end.

    Folders of the same prefix and user that nobody holds any more, because kill -9 leaves no time to tidy up, are removed first.

    Args:
        prefix: of the name of the folder that it lies in, beside its lock.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / f"{_LOCK}-new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under this name only once it is held: others take it for abandoned otherwise.
            (folder / f"{_LOCK}-new").rename(folder / _LOCK)
            (folder / _CONTENT).mkdir()
            yield folder / _CONTENT
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or of somebody who holds nothing
        return False
    return True
