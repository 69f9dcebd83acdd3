"""One writer at a time, and every complaint of the system or of LanceDB as one line about the index."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from cmmixer.atomic import explain_full_disk
from cmmixer.errors import SearchIndexError


@contextmanager
def told_clearly(folder: Path, advice: str = "make an index in a new folder") -> Iterator[None]:
    """Lance's, LanceDB's and the system's errors as one line about the index, and what to do about damage."""
    with explain_full_disk(folder, SearchIndexError):
        try:
            yield
        except (RuntimeError, OSError, pa.ArrowException) as fault:
            if isinstance(fault, OSError) and fault.errno is not None:
                raise
            # Lance and LanceDB hand the system's complaints on as text, in whatever error is at hand.
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                if f"os error {code})" in str(fault):
                    raise OSError(code, os.strerror(code)) from fault
            raise SearchIndexError(f"{folder}: is damaged ({short(fault)}); {advice}") from fault


@contextmanager
def only_writer(folder: Path) -> Iterator[bool]:
    """Holds the folder's lock; yields whether the writer before was stopped half way."""
    with (folder / "writing").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            if fault.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise SearchIndexError(
                f"{folder}: another process is writing to this index; wait until it is done"
            ) from fault
        file.seek(0)
        interrupted = bool(file.read())
        file.write(b"a process is writing; if none is, it was stopped and the next one clears up\n")
        file.flush()
        os.fsync(file.fileno())
        yield interrupted
        file.truncate(0)


def short(fault: BaseException) -> str:
    """A library's complaint on one line, its beginning."""
    return " ".join(str(fault).split())[:160]
