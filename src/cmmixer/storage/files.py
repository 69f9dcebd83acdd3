"""Files and folders that are either whole or not there, whatever kills the process.

Temporary folders that go with the process that made them; what a killed one left goes when the next one is made.
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

# Who only asks whether somebody writes holds the lock for an instant.
LOOK_SECONDS = 0.5


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file under a temporary name beside it, then renames; a reader sees the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def file_written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes `path`'s name at the end, for what takes long; on any error it is removed and nothing shows.

    What killed processes left of the same file is removed first; one that is still being written is held by a lock.
    """
    own = re.compile(rf"{re.escape(TEMPORARY)}\d+-{re.escape(path.name)}")
    for left in path.parent.glob(f"{TEMPORARY}*"):
        if own.fullmatch(left.name) and not is_held(left):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path, complaint: CMMixerError, name: str = LOCK) -> Iterator[None]:
    """Holds a folder against a second writer by a file in it; a killed process lets go of itself.

    Raises:
        CMMixerError: the complaint, if another process holds it.
    """
    with open(folder / name, "w") as lock:
        end = time.monotonic() + LOOK_SECONDS
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise complaint
            time.sleep(LOOK_SECONDS / 10)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds this file, as `only_writer` and `file_written_whole` do."""
    try:
        with path.open("rb") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except OSError:  # nobody ever wrote here, or locks cannot be had
        return False


def _locked(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes `folder`'s name at the end; on any error it is removed and nothing shows."""
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        if folder.exists():  # written before by the same step of an interrupted run: the content is the same
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left half written in `folder`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def explain_full_disk(where: object, error: Callable[[str], CMMixerError]) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into one clear line.

    Raises:
        CMMixerError: as made by `error`, when the system says no space, quota, too large, read-only or not permitted.
    """
    try:
        yield
    except OSError as fault:
        # Libraries that write from other languages hand on only the text.
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(fault)
        limited = fault.errno == errno.EFBIG or "File too large" in str(fault)
        refused = fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if full:
            raise error(
                f"{where}: the disk is full; free some space and run the same command again, it continues"
            ) from fault
        if limited:
            raise error(
                f"{where}: a file may not grow any larger there (see `ulimit -f`, or the file system's limit); raise the limit and "
                "run the same command again, it continues"
            ) from fault
        if refused:
            raise error(
                f"{where}: cannot write here ({os.strerror(fault.errno or 0)}); choose another folder"
            ) from fault
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
