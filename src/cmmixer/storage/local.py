"""A folder on a disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmmixer.atomic import is_held, only_writer, remove_leftovers, write_atomically
from cmmixer.errors import InputError


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
