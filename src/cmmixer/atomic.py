"""Files and folders that are either whole or not there, whatever kills the process."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cmmixer.errors import CMMixerError

TEMPORARY = ".tmp-"
LOCK = ".lock"


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
        if own.fullmatch(left.name) and not _is_held(left):
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


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


@contextmanager
def only_writer(folder: Path, complaint: CMMixerError) -> Iterator[None]:
    """Holds a folder against a second writer by its file `.lock`; a killed process lets go of itself.

    Raises:
        CMMixerError: the complaint, if another process holds it.
    """
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise complaint from fault
        yield


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes `folder`'s name at the end; on any error it is removed and nothing shows."""
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
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
def explain_full_disk(where: Path, error: Callable[[str], CMMixerError]) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into one clear line.

    Raises:
        CMMixerError: as made by `error`, when the system says no space, quota, read-only or not permitted.
    """
    try:
        yield
    except OSError as fault:
        # Libraries that write from other languages hand on only the text.
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(fault)
        refused = fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if full:
            raise error(
                f"{where}: the disk is full; free some space and run the same command again, it continues"
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
