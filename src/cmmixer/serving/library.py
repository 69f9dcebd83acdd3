"""The library as the service sees it: files with ids instead of paths, folders, filters; read anew when the index changes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cmmixer.data.manifest import SOUND_ENDINGS
from cmmixer.errors import SearchIndexError
from cmmixer.indexing import FileRow, IndexCard, MomentIndex
from cmmixer.searching import on_disk
from cmmixer.serving.problems import ProblemError
from cmmixer.serving.schema import Column, Facet, Filters, Folder, Item, ItemDetail, Moment, Text

# Another process may index too; its commits show after this long.
_LOOK_AGAIN_SECONDS = 1.0
_MOST_FACETS = 200


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
_OWN = frozenset(FileRow.__dataclass_fields__) - _INNER


def _root_folder(row: FileRow) -> Path:
    root = Path(row.root)
    return root.parent if root.suffix.lower() in (".csv", ".jsonl", ".list") else root


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


@dataclass
class Snapshot:
    """The library at one moment.

    Attributes:
        index: for searches.
        entries: files that can be found, by id.
    """

    index: MomentIndex
    entries: dict[str, Entry]
    by_batch: dict[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.by_batch = {entry.batch: entry for entry in self.entries.values()}

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """Reads an index's files.

        Raises:
            SearchIndexError: it is missing or damaged.
        """
        index = MomentIndex.open(folder)
        stretches = index.stretches()
        entries = {}
        for row in index.files():
            if row.batch is not None and row.batch in stretches:
                entry = Entry(row, id_of("item", row.name), _name(row), *stretches[row.batch])
                entries[entry.id] = entry
        return cls(index, entries)

    def entry(self, item: str) -> Entry:
        """A file by its id.

        Raises:
            ProblemError: there is none.
        """
        if item not in self.entries:
            raise ProblemError("not-found", f"no file of the library has the id {item}")
        return self.entries[item]

    def filtered(self, filters: Filters) -> list[Entry]:
        """The files that all filters leave.

        Raises:
            ProblemError: a column that the index does not have.
        """
        where = [self._clause(clause) for clause in filters.where]
        labels, text = set(filters.label), (filters.text or "").casefold()
        return [entry for entry in self.entries.values() if _holds(entry, filters, labels, text, where)]

    def _clause(self, clause: str) -> tuple[str, str]:
        """A column and its value; a column's name may hold colons too."""
        column = max((name for name in self.columns if clause.startswith(f"{name}:")), key=len, default=None)
        if column is None:
            got, known = clause.partition(":")[0], ", ".join(self.columns)
            raise ProblemError("bad-request", f"where: got {got}, expected one of {known}")
        return column, clause[len(column) + 1 :]

    @cached_property
    def columns(self) -> list[str]:
        """Columns that can be filtered by: those of the index, and those of the manifests it was made from."""
        return sorted(_OWN.union(*(entry.metadata for entry in self.entries.values())))

    @cached_property
    def metadata(self) -> list[Column]:
        """The manifests' columns with their most frequent values."""
        counts: dict[str, Counter[str]] = {}
        for entry in self.entries.values():
            for name, value in entry.metadata.items():
                if name not in _OWN:
                    counts.setdefault(name, Counter()).update(_texts(value))
        return [Column(name=name, values=_facets(counts[name])) for name in sorted(counts)]

    @cached_property
    def folders(self) -> list[Folder]:
        """All source folders with what is in and below them, in order of their names."""
        counts: Counter[str] = Counter()
        names: dict[str, str] = {}
        for entry in self.entries.values():
            inside = PurePosixPath(entry.folder)
            for key, folder in zip(entry.folder_ids, (inside, *inside.parents), strict=False):
                counts[key] += 1
                names[key] = str(folder)
        return [Folder(id=key, name=names[key], items=counts[key]) for key in sorted(names, key=lambda key: names[key])]

    @cached_property
    def labels(self) -> list[Facet]:
        """The most frequent labels."""
        counts = Counter(entry.row.label for entry in self.entries.values() if entry.row.label is not None)
        return _facets(counts)


def without_place(message: str, folder: Path | str, name: str) -> str:
    """A message without where on this machine a folder lies: that is nothing to those who only call the service."""
    return message.replace(f"{folder}{os.sep}", "").replace(str(folder), name)


def _facets(counts: Counter[str]) -> list[Facet]:
    return [Facet(value=value, items=count) for value, count in sorted(counts.most_common(_MOST_FACETS))]


def _texts(value: object) -> set[str]:
    """What a value is called in a filter: text as it is, all else as JSON writes it; of a list, each of its values."""
    if isinstance(value, list):
        return set().union(*(_texts(inner) for inner in value))
    if value is None:
        return {""}
    return {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _holds(entry: Entry, filters: Filters, labels: set[Text], text: str, where: list[tuple[str, str]]) -> bool:
    row = entry.row
    return (
        (filters.kind is None or entry.kind == filters.kind)
        and (not labels or row.label in labels)
        and (filters.min_seconds is None or entry.duration_seconds >= filters.min_seconds)
        and (filters.max_seconds is None or entry.duration_seconds <= filters.max_seconds)
        and (not text or any(text in (told or "").casefold() for told in (entry.name, row.label, row.source)))
        and all(value in _texts(entry.columns.get(column)) for column, value in where)
        and (filters.folder is None or filters.folder in entry.folder_ids)
    )


def _name(row: FileRow) -> str:
    """Path below the data it came from; what lies elsewhere, as a manifest may name it, goes by its own name."""
    try:
        return PurePosixPath(row.path).relative_to(_root_folder(row)).as_posix()
    except ValueError:
        return PurePosixPath(row.path).name


class LiveLibrary:
    """The newest snapshot of an index that this or another process may be writing to."""

    def __init__(self, folder: Path, check: Callable[[IndexCard], None] = lambda card: None) -> None:
        """`check` refuses, with a SearchIndexError, what has come in the place of the index that was opened."""
        self.folder = folder
        self._check = check
        self._lock = threading.Lock()
        self._version = self._written()
        self._snapshot = Snapshot.read(folder)
        self._looked = time.monotonic()

    def now(self) -> Snapshot:
        """The library as it is.

        Raises:
            SearchIndexError: it was changed and cannot be read, or is another model's now.
        """
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS:
            with self._lock:
                version = self._written()
                if version != self._version:
                    self._snapshot, self._version = self._read_anew(), version
                # Not before: what could not be read is tried again by the next one who asks.
                self._looked = time.monotonic()
        return self._snapshot

    def _read_anew(self) -> Snapshot:
        try:
            snapshot = Snapshot.read(self.folder)
            self._check(snapshot.index.card)
        except SearchIndexError as fault:
            raise SearchIndexError(without_place(str(fault), self.folder, "the index")) from fault
        return snapshot

    def look_again(self) -> None:
        """Has the next reader look whether something was written."""
        self._looked = -_LOOK_AGAIN_SECONDS

    def _written(self) -> tuple[int, ...]:
        """Changes whenever a table gets a new version, or the index goes."""
        versions = []
        for name in ("files.lance/_versions", "moments.lance/_versions", "index.json"):
            try:
                versions.append(os.stat(self.folder / name).st_mtime_ns)
            except OSError:
                versions.append(-1)
        return tuple(versions)
