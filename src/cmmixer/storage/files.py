"""Local files and folders that appear complete or not at all, locks against a second writer, and temporary folders.

Everything here survives `kill -9`: half-written data keeps a temporary name that the next writer removes, and locks end with
their process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cmmixer.errors import CMMixerError

TEMPORARY = ".tmp-"
LOCK = ".lock"

# `is_locked` takes the lock itself for an instant; a writer waits this long before it gives up.
_PATIENCE_SECONDS = 0.5


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file; readers see the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        _flush(file)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renames it to `path` at the end, deletes it on any error."""
    target = Path(path)
    temporary = _temporary_name(target)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields an open file that is renamed to `path` at the end and deleted on any error; for writing that takes long.

    Leftovers of killed processes that wrote the same file are removed first. A lock tells them from a file that another
    process is still writing.
    """
    leftover = re.compile(rf"{re.escape(TEMPORARY)}\d+-{re.escape(path.name)}")
    for candidate in path.parent.glob(f"{TEMPORARY}*"):
        if leftover.fullmatch(candidate.name) and not is_locked(candidate):
            candidate.unlink(missing_ok=True)
    temporary = _temporary_name(path)
    try:
        with temporary.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            _flush(file)
            temporary.replace(path)  # before the lock ends
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` at the end and deleted on any error.

    A `folder` that exists is replaced.
    """
    temporary = _temporary_name(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        if folder.exists():  # the same step of a run that was interrupted: same content
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes everything under a temporary name from `folder`; only the holder of its lock may call this."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def lock_file(path: Path, busy: CMMixerError) -> Iterator[IO[bytes]]:
    """Locks a file, which is created if missing; the lock ends with the block or with the process.

    Yields:
        The locked file, open for reading and appending.

    Raises:
        CMMixerError: `busy`, if another process holds the lock.
    """
    with path.open("a+b") as file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise busy
            time.sleep(_PATIENCE_SECONDS / 10)
        yield file


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock of this file, as `lock_file` and `atomic_file` do."""
    try:
        with path.open("rb") as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except OSError:  # no such file, or a file system without locks
        return False


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yields a new empty folder in the system's temporary folder and deletes it at the end.

    Folders of the same prefix and user whose process was killed are deleted first.

    Args:
        prefix: begins the name of the enclosing folder, which also holds the lock.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / f"{LOCK}-new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Named so only after it is locked: otherwise another process could take the folder for abandoned.
            (folder / f"{LOCK}-new").rename(folder / LOCK)
            (folder / "content").mkdir()
            yield folder / "content"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def explain_full_disk(where: object, error: Callable[[str], CMMixerError]) -> Iterator[None]:
    """Turns the system's errors about a full disk or a forbidden folder into one clear line.

    Args:
        where: the file or folder, for the message.
        error: builds the error from the message.

    Raises:
        CMMixerError: for no space, quota exceeded, file too large, read-only, or permission denied.
    """
    try:
        yield
    except OSError as cause:
        # Libraries written in other languages pass on only the text.
        if cause.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause):
            message = "the disk is full; free some space and run the same command again, it continues"
        elif cause.errno == errno.EFBIG or "File too large" in str(cause):
            message = (
                "a file may not grow any larger there (see `ulimit -f`, or the file system's limit); raise the limit and "
                "run the same command again, it continues"
            )
        elif cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message = f"cannot write here ({os.strerror(cause.errno)}); choose another folder"
        else:
            raise
        raise error(f"{where}: {message}") from cause


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")


def _try_lock(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        with (folder / LOCK).open("rb") as lock:
            return _try_lock(lock, fcntl.LOCK_EX)
    except OSError:  # another program's folder
        return False


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
