"""The library: the files of the index with their filters, reloaded when the index changes, and folders that may be indexed.

Clients know files and folders by ids, never by paths.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from cmmixer.data.manifest import readable
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import IndexMetadata
from cmmixer.server import schemas
from cmmixer.server.entry import OWN_COLUMNS, Entry, id_of, shown_path
from cmmixer.server.problems import ProblemError
from cmmixer.server.schemas import Column, Facet, Filters, Folder, Text

# Another process may write to the index; its commits show after this long.
_CHECK_SECONDS = 1.0
_MAX_FACETS = 200
_MAX_SUBFOLDERS = 1000
_MAX_KNOWN_FOLDERS = 100_000


@dataclass
class Snapshot:
    """The library at one point in time.

    Attributes:
        index: for searches.
        entries: files that can be searched, by id.
        by_batch: the same files, by the key of their moments.
    """

    index: MomentIndex
    entries: dict[str, Entry]
    by_batch: dict[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.by_batch = {entry.batch: entry for entry in self.entries.values()}

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """Reads the files of an index.

        Raises:
            SearchIndexError: the index is missing or damaged.
        """
        index = MomentIndex.open(folder)
        spans = index.time_ranges()
        entries = {}
        for row in index.files():
            if row.batch is not None and row.batch in spans:
                entry = Entry(row, id_of("item", row.name), shown_path(row), *spans[row.batch])
                entries[entry.id] = entry
        return cls(index, entries)

    def entry(self, item_id: str) -> Entry:
        """Returns a file by its id.

        Raises:
            ProblemError: `not-found`.
        """
        if item_id not in self.entries:
            raise ProblemError("not-found", f"no file of the library has the id {item_id}")
        return self.entries[item_id]

    def filtered(self, filters: Filters) -> list[Entry]:
        """Returns the files that pass all filters.

        Raises:
            ProblemError: `bad-request`, for a column that the library does not have.
        """
        where = [self._clause(clause) for clause in filters.where]
        labels, text = set(filters.label), (filters.text or "").casefold()
        return [entry for entry in self.entries.values() if _passes(entry, filters, labels, text, where)]

    def _clause(self, clause: str) -> tuple[str, str]:
        """Splits `column:value`. The name of a column may contain colons too."""
        column = max((name for name in self.columns if clause.startswith(f"{name}:")), key=len, default=None)
        if column is None:
            got, known = clause.partition(":")[0], ", ".join(self.columns)
            raise ProblemError("bad-request", f"where: got {got}, expected one of {known}")
        return column, clause[len(column) + 1 :]

    @cached_property
    def columns(self) -> list[str]:
        """Columns to filter by: those of the index, and those of the indexed manifests."""
        return sorted(OWN_COLUMNS.union(*(entry.metadata for entry in self.entries.values())))

    @cached_property
    def metadata(self) -> list[Column]:
        """Columns of the manifests, with their most frequent values."""
        counts: dict[str, Counter[str]] = {}
        for entry in self.entries.values():
            for name, value in entry.metadata.items():
                if name not in OWN_COLUMNS:
                    counts.setdefault(name, Counter()).update(_texts(value))
        return [Column(name=name, values=_facets(counts[name])) for name in sorted(counts)]

    @cached_property
    def folders(self) -> list[Folder]:
        """All source folders by name, with the number of files in them and their subfolders."""
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


def without_path(message: str, folder: Path | str, name: str) -> str:
    """Returns a message with the path of a folder replaced by a name, because clients must not learn paths."""
    return message.replace(f"{folder}{os.sep}", "").replace(str(folder), name)


def _facets(counts: Counter[str]) -> list[Facet]:
    return [Facet(value=value, items=count) for value, count in sorted(counts.most_common(_MAX_FACETS))]


def _texts(value: object) -> set[str]:
    """Returns how filters write a value: text as it is, anything else as JSON, each value of a list on its own."""
    if isinstance(value, list):
        return set().union(*(_texts(inner) for inner in value))
    if value is None:
        return {""}
    return {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _passes(entry: Entry, filters: Filters, labels: set[Text], text: str, where: list[tuple[str, str]]) -> bool:
    row = entry.row
    return (
        (filters.kind is None or entry.kind == filters.kind)
        and (not labels or row.label in labels)
        and (filters.min_seconds is None or entry.duration_seconds >= filters.min_seconds)
        and (filters.max_seconds is None or entry.duration_seconds <= filters.max_seconds)
        and (not text or any(text in (field or "").casefold() for field in (entry.name, row.label, row.source)))
        and all(value in _texts(entry.columns.get(column)) for column, value in where)
        and (filters.folder is None or filters.folder in entry.folder_ids)
    )


class LiveLibrary:
    """The newest snapshot of an index that this or another process may be writing to."""

    def __init__(self, folder: Path, check: Callable[[IndexMetadata], None] = lambda metadata: None) -> None:
        """Reads the index.

        Args:
            folder: of the index.
            check: called when the index was replaced; raises a SearchIndexError if the new one cannot be used.

        Raises:
            SearchIndexError: the index is missing or damaged.
        """
        self.folder = folder
        self._check = check
        self._lock = threading.Lock()
        self._version = self._modification_times()
        self._snapshot = Snapshot.read(folder)
        self._checked = time.monotonic()

    def snapshot(self) -> Snapshot:
        """Returns the current state of the library.

        Raises:
            SearchIndexError: the index has changed and cannot be read, or `check` refuses it.
        """
        if time.monotonic() - self._checked > _CHECK_SECONDS:
            with self._lock:
                version = self._modification_times()
                if version != self._version:
                    self._snapshot, self._version = self._reload(), version
                # Only now: an index that could not be read is tried again with the next call.
                self._checked = time.monotonic()
        return self._snapshot

    def _reload(self) -> Snapshot:
        try:
            snapshot = Snapshot.read(self.folder)
            self._check(snapshot.index.metadata)
        except SearchIndexError as error:
            raise SearchIndexError(without_path(str(error), self.folder, "INDEX")) from error
        return snapshot

    def expire(self) -> None:
        """Has the next call of `snapshot` check whether the index has changed."""
        self._checked = -_CHECK_SECONDS

    def _modification_times(self) -> tuple[int, ...]:
        """Returns times that change whenever a table gets a new version, or the index disappears."""
        times = []
        for name in ("files.lance/_versions", "moments.lance/_versions", "index.json"):
            try:
                times.append(os.stat(self.folder / name).st_mtime_ns)
            except OSError:
                times.append(-1)
        return tuple(times)


@dataclass(frozen=True)
class _KnownFolder:
    """A folder that was listed: its path, and its name for clients."""

    path: str
    name: str


class Folders:
    """Folders that may be indexed, by id: the roots that the operator allows and everything inside them."""

    def __init__(self, roots: list[str]) -> None:
        """Allows `roots` and everything inside them."""
        self.roots = [os.path.abspath(root) for root in roots]
        self._real_roots = [os.path.realpath(root) for root in roots]
        self._known: dict[str, _KnownFolder] = {}
        self._top_keys = [self._add(root, Path(root).name or root) for root in self.roots if os.path.isdir(root)]

    def listing(self, parent: str | None, counts: dict[str, int]) -> schemas.FolderListing:
        """Lists the roots, or the subfolders of a folder.

        Args:
            parent: id of a folder that was listed before; None lists the roots.
            counts: number of library files directly in each folder, by path.

        Raises:
            ProblemError: the folder is not known, is gone, or is a link to a place outside the roots by now.
        """
        if parent is None:
            return schemas.FolderListing(parent=None, folders=[self._schema(key, counts) for key in self._top_keys])
        folder = self.find(parent)
        try:
            with os.scandir(folder.path) as entries:
                children = sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
        except OSError as error:
            raise ProblemError("gone", f"{folder.name}: cannot be listed ({error.strerror})") from error
        keys = []
        for child in children[:_MAX_SUBFOLDERS]:
            path = os.path.join(folder.path, child)
            if self._is_allowed(path):
                keys.append(self._add(path, f"{folder.name}/{readable(child)}"))
        return schemas.FolderListing(
            parent=self._schema(parent, counts), folders=[self._schema(key, counts) for key in keys]
        )

    def find(self, folder_id: str) -> _KnownFolder:
        """Returns a folder by its id.

        Raises:
            ProblemError: the folder was never listed, is gone, or is a link to a place outside the roots.
        """
        folder = self._known.get(folder_id)
        if folder is None:
            raise ProblemError(
                "not-found", f"no folder that may be indexed has the id {folder_id}; list the folders again"
            )
        if not os.path.isdir(folder.path):
            raise ProblemError("gone", f"{folder.name}: is no longer a folder")
        if not self._is_allowed(folder.path):
            raise ProblemError("outside-library", f"{folder.name}: is a link to a place that may not be indexed")
        return folder

    def _is_allowed(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == root or real.startswith(os.path.join(root, "")) for root in self._real_roots)

    def _add(self, path: str, name: str) -> str:
        key = id_of("folder to index", path)
        if key in self._known or len(self._known) < _MAX_KNOWN_FOLDERS:
            self._known[key] = _KnownFolder(path, readable(name))
        return key

    def _schema(self, key: str, counts: dict[str, int]) -> schemas.Folder:
        folder = self._known[key]
        inside = os.path.join(folder.path, "")
        items = sum(count for path, count in counts.items() if path == folder.path or path.startswith(inside))
        return schemas.Folder(id=key, name=folder.name, items=items)
