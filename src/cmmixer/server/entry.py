"""A file of the library: its id, the columns that clients may see, and its place on this machine."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cmmixer.data.manifest import AUDIO_ENDINGS
from cmmixer.retrieval.hits import on_disk
from cmmixer.retrieval.schema import FileRow
from cmmixer.server.problems import ProblemError
from cmmixer.server.schemas import Item, ItemDetail, Kind, Moment


def id_of(*parts: str) -> str:
    """Returns an id of 24 hexadecimal digits, which reveals nothing about the parts it is made of."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


@dataclass(frozen=True)
class Entry:
    """A file of the index that can be searched.

    Attributes:
        row: the file's row in the index.
        id: the file's name for clients.
        name: path relative to the data that was indexed.
        start_seconds, end_seconds: span of all its moments.
    """

    row: FileRow
    id: str
    name: str
    start_seconds: float
    end_seconds: float

    @property
    def batch(self) -> str:
        """Key of its moments in the index."""
        assert self.row.batch is not None
        return self.row.batch

    @property
    def duration_seconds(self) -> float:
        """Duration of the span that was indexed."""
        return self.end_seconds - self.start_seconds

    @property
    def kind(self) -> Kind:
        """`video` or `audio`, by the file's ending."""
        return "audio" if Path(self.row.path).suffix[1:].lower() in AUDIO_ENDINGS else "video"

    @cached_property
    def folder(self) -> str:
        """Its folder: the name of the folder that was indexed, then the path inside it."""
        return str(PurePosixPath(_root_folder(self.row).name, PurePosixPath(self.name).parent))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Further columns of the manifest."""
        return self.row.metadata

    @cached_property
    def columns(self) -> dict[str, Any]:
        """Columns that clients may see and filter by: those of the manifest, and those of the index without paths."""
        own = {name: value for name, value in asdict(self.row).items() if name not in _PRIVATE}
        return {**self.metadata, **own}

    @property
    def content_key(self) -> str:
        """Identifies the content of its files: it changes when they do."""
        return self.row.sha256 or f"{self.row.name} {self.row.sizes} {self.row.mtimes_ns}"

    @property
    def folder_ids(self) -> Iterator[str]:
        """Ids of its folder and of all parent folders inside the data."""
        inside = PurePosixPath(self.folder)
        for folder in (inside, *inside.parents):
            if folder.parts:
                yield id_of("folder", str(_root_folder(self.row)), str(folder))

    def file(self, modality: str, roots: list[str]) -> str | bytes:
        """Returns the path of the file that holds its video or its audio.

        Args:
            modality: `audio` gives the separate audio file, where there is one.
            roots: folders that may be served besides the folder that was indexed.

        Raises:
            ProblemError: the file is gone, is not a regular file any more, or is a link out of the library.
        """
        path = self.row.audio_path if modality == "audio" and self.row.audio_path is not None else self.row.path
        found = on_disk(path)
        if found is None:
            raise ProblemError("gone", f"{self.name}: no longer exists")
        real = os.path.realpath(os.fsdecode(found))
        # A manifest may name files anywhere; whoever indexed it has allowed the folder of each file.
        allowed = [*roots, self.row.root if os.path.isdir(self.row.root) else os.path.dirname(os.fsdecode(found))]
        if not any(_is_below(real, os.path.realpath(root)) for root in allowed):
            raise ProblemError("outside-library", f"{self.name}: is a link to a place outside the library")
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise ProblemError("gone", f"{self.name}: is no longer a file")
        return found

    def item(self) -> Item:
        """Returns the file as a schema."""
        return Item(**self._values())

    def detail(self, moments: list[dict[str, Any]]) -> ItemDetail:
        """Returns the file as a schema with moments and columns.

        Args:
            moments: rows of the index.
        """
        spans = [Moment(start_seconds=row["start_seconds"], end_seconds=row["end_seconds"]) for row in moments]
        columns = {name: value for name, value in self.columns.items() if value is not None}
        return ItemDetail(
            **self._values(),
            has_video=any(row["video"] is not None for row in moments),
            has_audio=any(row["audio"] is not None for row in moments),
            spans=spans,
            columns=columns,
        )

    def _values(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "title": PurePosixPath(self.name).stem,
            "folder": next(self.folder_ids),
            "folder_name": self.folder,
            "kind": self.kind,
            "label": self.row.label,
            "source": self.row.source,
            "metadata": self.metadata,
            "duration_seconds": round(self.duration_seconds, 3),
            "moments": self.row.moments,
            "missing": on_disk(self.row.path) is None,
        }


# Columns that reveal places on this machine, or are of no use to people.
_PRIVATE = frozenset(
    (
        "name",
        "path",
        "audio_path",
        "root",
        "sizes",
        "mtimes_ns",
        "sha256",
        "batch",
        "message",
        "limit_seconds",
        "status",
        "extra",
    )
)
OWN_COLUMNS = frozenset(FileRow.__dataclass_fields__) - _PRIVATE


def _root_folder(row: FileRow) -> Path:
    root = Path(row.root)
    return root.parent if root.suffix.lower() in (".csv", ".jsonl", ".list") else root


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def shown_path(row: FileRow) -> str:
    """Returns a file's path relative to the data, or its name alone where a manifest names a file outside the data."""
    try:
        return PurePosixPath(row.path).relative_to(_root_folder(row)).as_posix()
    except ValueError:
        return PurePosixPath(row.path).name
