"""A file of the library: an id instead of a path, what may be seen of it, and where it lies."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cmmixer.data.manifest import SOUND_ENDINGS
from cmmixer.retrieval.hits import on_disk
from cmmixer.retrieval.schema import FileRow
from cmmixer.server.problems import ProblemError
from cmmixer.server.schemas import Item, ItemDetail, Moment


def id_of(*parts: str) -> str:
    """A name for things that says nothing about where they are: 24 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


@dataclass(frozen=True)
class Entry:
    """A file of the index that can be found.

    Attributes:
        row: as the index has it.
        id: names it outside.
        name: path below the data it came from.
        start_seconds, end_seconds: of its moments, all together.
    """

    row: FileRow
    id: str
    name: str
    start_seconds: float
    end_seconds: float

    @property
    def batch(self) -> str:
        """Key of its moments."""
        assert self.row.batch is not None
        return self.row.batch

    @property
    def duration_seconds(self) -> float:
        return self.end_seconds - self.start_seconds

    @property
    def kind(self) -> str:
        """`film` or `sound`, by its ending."""
        return "sound" if Path(self.row.path).suffix[1:].lower() in SOUND_ENDINGS else "film"

    @cached_property
    def folder(self) -> str:
        """Its folder: the name of the data's folder, then what lies below it."""
        return str(PurePosixPath(_root_folder(self.row).name, PurePosixPath(self.name).parent))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The manifest's other columns."""
        return self.row.metadata

    @cached_property
    def columns(self) -> dict[str, Any]:
        """What may be seen and filtered by: the manifest's columns, and the index's but those that name places."""
        own = {name: value for name, value in asdict(self.row).items() if name not in _INNER}
        return {**self.metadata, **own}

    @property
    def content(self) -> str:
        """Names what is in its files."""
        return self.row.sha256 or f"{self.row.name} {self.row.sizes} {self.row.mtimes_ns}"

    @property
    def folder_ids(self) -> Iterator[str]:
        """Ids of its folder and of all above it inside the data."""
        inside = PurePosixPath(self.folder)
        for folder in (inside, *inside.parents):
            if folder.parts:
                yield id_of("folder", str(_root_folder(self.row)), str(folder))

    def file(self, sense: str, roots: list[str]) -> str | bytes:
        """Where its picture or its sound lies now.

        Args:
            sense: `audio` takes the file of its sound, where it has one.
            roots: folders that may be served besides that of the data it came from.

        Raises:
            ProblemError: it has gone, is no file any more, or leads out of the library.
        """
        path = self.row.audio_path if sense == "audio" and self.row.audio_path is not None else self.row.path
        found = on_disk(path)
        if found is None:
            raise ProblemError("gone", f"{self.name}: the file has gone since it was indexed")
        real = os.path.realpath(os.fsdecode(found))
        # A row of a manifest may lie anywhere, so there its own folder is what the operator has named.
        allowed = [*roots, self.row.root if os.path.isdir(self.row.root) else os.path.dirname(os.fsdecode(found))]
        if not any(_is_below(real, os.path.realpath(root)) for root in allowed):
            raise ProblemError("outside", f"{self.name}: is a link that leads out of the library")
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise ProblemError("gone", f"{self.name}: is not a file any more")
        return found

    def item(self) -> Item:
        """As it is shown."""
        return Item(**self._values())

    def detail(self, moments: list[dict[str, Any]]) -> ItemDetail:
        """With its moments and columns."""
        spans = [Moment(start_seconds=row["start_seconds"], end_seconds=row["end_seconds"]) for row in moments]
        columns = {name: value for name, value in self.columns.items() if value is not None}
        return ItemDetail(
            **self._values(),
            has_picture=any(row["video"] is not None for row in moments),
            has_sound=any(row["audio"] is not None for row in moments),
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


# Columns that say where things lie on this machine, or are of no use to people.
_INNER = frozenset(
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
OWN_COLUMNS = frozenset(FileRow.__dataclass_fields__) - _INNER


def _root_folder(row: FileRow) -> Path:
    root = Path(row.root)
    return root.parent if root.suffix.lower() in (".csv", ".jsonl", ".list") else root


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def shown_path(row: FileRow) -> str:
    """Path below the data it came from; what lies elsewhere, as a manifest may name it, goes by its own name."""
    try:
        return PurePosixPath(row.path).relative_to(_root_folder(row)).as_posix()
    except ValueError:
        return PurePosixPath(row.path).name
