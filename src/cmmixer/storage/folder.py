"""Folders on a disk or in object storage behind one interface, which clip stores and vector tables are written through."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from cmmixer.config.base import is_remote
from cmmixer.errors import InputError
from cmmixer.storage.files import is_locked, lock_file, remove_leftovers, write_atomically


class WriteLock(Protocol):
    """The right to write to a folder."""

    def check(self) -> None:
        """Makes sure that the lock is still held.

        Raises:
            InputError: another writer has taken it over.
        """


class Folder(Protocol):
    """A folder of small files and Lance tables. `str(folder)` is its name in messages.

    Attributes:
        storage_options: what Lance needs to open a table in it; None on a disk.
    """

    storage_options: dict[str, str] | None

    def child(self, name: str) -> str:
        """Returns the full name of a file or table in the folder, for messages and for Lance."""

    def make(self) -> None:
        """Creates the folder if it does not exist.

        Raises:
            FileExistsError, NotADirectoryError: there is a file in its place.
            InputError: no such bucket, or no connection.
        """

    def has(self, name: str) -> bool:
        """Returns whether there is a file of this name."""

    def has_folder(self, name: str) -> bool:
        """Returns whether there is a folder of this name with anything in it."""

    def names(self) -> list[str]:
        """Returns the names of the files and folders in it, sorted."""

    def read_text(self, name: str) -> str:
        """Returns the text of a file.

        Raises:
            FileNotFoundError: no such file.
        """

    def write_text(self, name: str, text: str) -> None:
        """Writes a file; readers see the old content or the new, never a part."""

    def read_lines(self, name: str) -> list[str]:
        """Returns the complete lines written by `append_lines`; none if there is no such file."""

    def append_lines(self, name: str, lines: list[str]) -> None:
        """Appends lines, each with its line break, to a file. Only for the holder of the lock."""

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it exists."""

    def lock(self, name: str, busy: InputError) -> AbstractContextManager[WriteLock]:
        """Locks the folder against a second writer by a file of this name. The lock of a killed process ends by itself.

        Raises:
            InputError: `busy`, if another process holds the lock.
        """

    def is_locked(self, name: str) -> bool:
        """Returns whether a process holds the lock of this name; on object storage the answer takes some seconds."""


Location = str | Path | Folder


class LocalFolder:
    """A `Folder` on a disk."""

    storage_options: dict[str, str] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> str:
        return str(self.path / name)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def has_folder(self, name: str) -> bool:
        return (self.path / name).is_dir() and any((self.path / name).iterdir())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    def read_text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text)

    def read_lines(self, name: str) -> list[str]:
        """Returns the complete lines; what a kill or a full disk left after the last line break is cut off the file."""
        path = self.path / name
        if not path.exists():
            return []
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            with open(path, "r+b") as file:
                file.truncate(len(complete))
        return complete.decode("utf-8").splitlines()

    def append_lines(self, name: str, lines: list[str]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.writelines(lines)

    def remove(self, name: str) -> None:
        path = self.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str, busy: InputError) -> Iterator[LocalFolder]:
        with lock_file(self.path / name, busy):
            remove_leftovers(self.path)
            yield self

    def is_locked(self, name: str) -> bool:
        return is_locked(self.path / name)

    def check(self) -> None:
        """Does nothing: the system's lock cannot be taken over."""


def open_folder(location: Location) -> Folder:
    """Returns the folder of a path or an `s3://` address. Nothing is read yet; it need not exist.

    Raises:
        SettingsError: an address without a bucket, or the library for object storage is not installed.
    """
    if is_remote(location):
        from cmmixer.storage.s3 import ObjectFolder

        return ObjectFolder(str(location))
    return LocalFolder(Path(location)) if isinstance(location, str | Path) else location


def absolute_location(folder: Folder) -> str:
    """Returns the name of a folder for a process with another working directory."""
    return str(folder.path.absolute()) if isinstance(folder, LocalFolder) else str(folder)


@contextmanager
def explain_server_errors(folder: Folder) -> Iterator[None]:
    """Turns Lance's errors about the server of an object storage into one line; its other errors pass unchanged.

    Raises:
        InputError: no connection, no such bucket, or no right to it.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if folder.storage_options is None:
            raise
        from cmmixer.storage.s3 import ObjectFolder, explain_s3_error, is_server_error

        if isinstance(folder, ObjectFolder) and is_server_error(error):
            raise InputError(explain_s3_error(folder, error)) from error
        raise
