"""What a folder must be able to do, and how one is opened.

A folder on a disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from cmmixer.config.base import is_remote
from cmmixer.errors import InputError
from cmmixer.storage.files import is_held, only_writer, remove_leftovers, write_atomically


class LocalFolder:
    """See `Folder`."""

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

    def has_below(self, name: str) -> bool:
        return (self.path / name).is_dir() and any((self.path / name).iterdir())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    def read_text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text)

    def read_lines(self, name: str) -> list[str]:
        """The lines of the file; what a kill or a full disk left behind the last whole one is cut off."""
        path = self.path / name
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with open(path, "r+b") as file:
                file.truncate(len(whole))
        return whole.decode("utf-8").splitlines()

    def append_lines(self, name: str, lines: list[str]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.writelines(lines)

    def remove(self, name: str) -> None:
        path = self.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @contextmanager
    def held(self, name: str, busy: InputError) -> Iterator[LocalFolder]:
        with only_writer(self.path, busy, name):
            remove_leftovers(self.path)
            yield self

    def is_held(self, name: str) -> bool:
        return is_held(self.path / name)

    def check(self) -> None:
        """The system's lock cannot be taken over."""


class Held(Protocol):
    """The right to write to a folder, while one has it."""

    def check(self) -> None:
        """Raises InputError once another writer has taken it over."""


class Folder(Protocol):
    """A folder of small files and of Lance tables. `str(folder)` is its name for people.

    Attributes:
        storage_options: what Lance needs to open a table in it; None for a disk.
    """

    storage_options: dict[str, str] | None

    def child(self, name: str) -> str:
        """The full name of what lies in it, for people and for Lance."""

    def make(self) -> None:
        """Makes it where it is not there; removes what killed writers left half written.

        Raises:
            FileExistsError, NotADirectoryError: a file is in its place.
            InputError: no such bucket, no connection.
        """

    def has(self, name: str) -> bool:
        """Whether a file of this name is there."""

    def has_below(self, name: str) -> bool:
        """Whether anything lies in the folder of this name."""

    def names(self) -> list[str]:
        """What lies in it, files and folders, sorted."""

    def read_text(self, name: str) -> str:
        """A file's text.

        Raises:
            FileNotFoundError: no such file.
        """

    def write_text(self, name: str, text: str) -> None:
        """Writes a file; a reader sees the old one or the new one."""

    def read_lines(self, name: str) -> list[str]:
        """The whole lines that `append_lines` wrote; none where there is no such file."""

    def append_lines(self, name: str, lines: list[str]) -> None:
        """Adds lines, each with its end, to a file. Only who holds the folder may."""

    def remove(self, name: str) -> None:
        """Removes a file or a folder, where it is there."""

    def held(self, name: str, busy: InputError) -> AbstractContextManager[Held]:
        """Holds the folder against a second writer by a file of this name; a killed process lets go of itself.

        Raises:
            InputError: `busy`, where another process holds it.
        """

    def is_held(self, name: str) -> bool:
        """Whether a process holds the folder by this file at this moment; object storage takes some seconds to tell."""


Place = str | Path | Folder


def open_folder(place: Place) -> Folder:
    """The folder of this name, on a disk or in object storage; whether it is there is seen when it is used.

    Raises:
        SettingsError: object storage whose library is not installed, or an address without a bucket.
    """
    if is_remote(place):
        from cmmixer.storage.s3 import ObjectFolder

        return ObjectFolder(str(place))
    return LocalFolder(Path(place)) if isinstance(place, str | Path) else place


@contextmanager
def server_told(folder: Folder) -> Iterator[None]:
    """What Lance says about a server that does not answer, as one line; its other complaints pass.

    Raises:
        InputError: no connection, no bucket, no right to it.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as fault:
        if folder.storage_options is None:
            raise
        from cmmixer.storage.s3 import ObjectFolder, explained, is_of_the_server

        if isinstance(folder, ObjectFolder) and is_of_the_server(fault):
            raise InputError(explained(folder, fault)) from fault
        raise


def absolute_place(folder: Folder) -> str:
    """The name of a folder for a process with another working directory."""
    return str(folder.path.absolute()) if isinstance(folder, LocalFolder) else str(folder)
