"""The JSON file beside a folder's data that says what the folder holds: one base for every kind.

A kind is a frozen dataclass. Its fields are the file's keys, in order, after `format`:

    @dataclass(frozen=True, kw_only=True)
    class StoreMetadata(FolderMetadata):
        FILE: ClassVar = MetadataFile("clip store", "store.json", 3, StoreError, "make one with `cmmixer prepare`",
                                      "prepare it again with --overwrite")
        clip: ClipSettings
        complete: bool = False

    StoreMetadata.read(folder).clip
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cmmixer.config.base import from_dict
from cmmixer.errors import InputError, SettingsError

if TYPE_CHECKING:
    from cmmixer.storage.folder import Folder


@dataclass(frozen=True)
class MetadataFile:
    """Name, version and error messages of one kind of metadata file.

    Attributes:
        what: what the folder is called in messages, such as "clip store".
        name: the file's name in the folder.
        format: version of the folder's layout; any other version is refused.
        error: raised when the file cannot be used.
        make: what to do where there is none; `{folder}` stands for the folder's name.
        remake: what to do about a damaged file, or one of an older version.
        repair: what to do about a damaged file instead, if something else helps.
    """

    what: str
    name: str
    format: int
    error: type[InputError]
    make: str
    remake: str
    repair: str = ""

    def parse(self, text: str, where: str) -> dict[str, Any]:
        """Returns the file's keys without `format`.

        Args:
            text: the file's content.
            where: the file's name, for messages.

        Raises:
            InputError: `error`, if the text is not a JSON object or is of another format.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.damaged(where, f"not JSON: {error}") from error
        if not isinstance(values, dict):
            raise self.damaged(where, f"got a JSON {type(values).__name__}, expected an object")
        got = values.pop("format", None)
        if type(got) is not int:
            raise self.damaged(where, f"got format {got!r}, expected {self.format}")
        if got != self.format:
            age, hint = ("an older", self.remake) if got < self.format else ("a newer", "use that version")
            raise self.error(f"{where}: got format {got} of {age} version of cmmixer, expected {self.format}; {hint}")
        return values

    def damaged(self, where: str, why: str) -> InputError:
        """Returns the error for a file with wrong content."""
        return self.error(f"{where}: damaged ({why}); {self.repair or self.remake}")

    def missing(self, folder: object) -> InputError:
        """Returns the error for a folder without such a file."""
        return self.error(
            f"{folder}: no {self.what} there ({self.name} is missing); {self.make.replace('{folder}', str(folder))}"
        )


class FolderMetadata:
    """Base of the frozen dataclasses that describe a folder. Subclasses set `FILE`."""

    FILE: ClassVar[MetadataFile]

    def as_json(self) -> dict[str, Any]:
        """Returns the file's content as plain JSON values."""
        return {"format": self.FILE.format, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    def to_text(self) -> str:
        """Returns the file's content: readable JSON, one key a line."""
        return json.dumps(self.as_json(), indent=1) + "\n"

    def write(self, folder: Folder) -> None:
        """Writes the file into a folder; a reader sees the old one or the new one."""
        folder.write_text(self.FILE.name, self.to_text())

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Reads the file's content strictly.

        Args:
            text: the content.
            where: the file's name, for messages.

        Raises:
            InputError: `FILE.error`, for damaged JSON, another format, unknown or missing keys, or a value of another type.
        """
        values = cls.FILE.parse(text, where)
        try:
            return from_dict(cls, values, "")
        except SettingsError as error:
            raise cls.FILE.damaged(where, str(error)) from error

    @classmethod
    def read(cls, folder: Folder) -> Self:
        """Reads the file of a folder.

        Raises:
            InputError: `FILE.error`, if it is missing or anything in it is wrong; object storage that cannot be reached.
        """
        where = folder.child(cls.FILE.name)
        try:
            text = folder.read_text(cls.FILE.name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise cls.FILE.missing(folder) from error
        except UnicodeDecodeError as error:
            raise cls.FILE.damaged(where, f"not UTF-8: {error.reason}") from error
        except OSError as error:
            raise cls.FILE.error(f"{where}: cannot be read ({error.strerror or error})") from error
        return cls.from_text(text, where)
