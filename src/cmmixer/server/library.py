"""The library as the service sees it: files with ids instead of paths, folders, filters; read anew when the index changes.

Folders that may be indexed from outside: those the operator allows and what lies inside them, by ids, never by paths.
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
from cmmixer.retrieval.schema import IndexCard
from cmmixer.server import schemas
from cmmixer.server.entry import OWN_COLUMNS, Entry, id_of, shown_path
from cmmixer.server.problems import ProblemError
from cmmixer.server.schemas import Column, Facet, Filters, Folder, Text

# Another process may index too; its commits show after this long.
_LOOK_AGAIN_SECONDS = 1.0

_MOST_FACETS = 200


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
                entry = Entry(row, id_of("item", row.name), shown_path(row), *stretches[row.batch])
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
        return sorted(OWN_COLUMNS.union(*(entry.metadata for entry in self.entries.values())))

    @cached_property
    def metadata(self) -> list[Column]:
        """The manifests' columns with their most frequent values."""
        counts: dict[str, Counter[str]] = {}
        for entry in self.entries.values():
            for name, value in entry.metadata.items():
                if name not in OWN_COLUMNS:
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


_MOST_SHOWN = 1000

_MOST_KNOWN = 100_000


@dataclass(frozen=True)
class _Known:
    """A folder that was shown to somebody: where it lies and what it is called."""

    path: str
    name: str


class Folders:
    """Hands out ids of folders below the allowed ones, and knows which folder an id means."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = [os.path.abspath(root) for root in roots]
        self._real_roots = [os.path.realpath(root) for root in roots]
        self._known: dict[str, _Known] = {}
        self._tops = [self._add(root, Path(root).name or root) for root in self.roots if os.path.isdir(root)]

    def listing(self, parent: str | None, counts: dict[str, int]) -> schemas.FolderListing:
        """The allowed folders, or those inside one.

        Args:
            parent: id of a folder that was shown before.
            counts: for each path how many files of the library lie in and below it.

        Raises:
            ProblemError: it is not known, or lies outside by now.
        """
        if parent is None:
            return schemas.FolderListing(parent=None, folders=[self._shown(key, counts) for key in self._tops])
        folder = self.find(parent)
        try:
            children = sorted(
                entry.name for entry in os.scandir(folder.path) if entry.is_dir() and entry.name[0] != "."
            )
        except OSError as fault:
            raise ProblemError("gone", f"{folder.name}: cannot be listed ({fault.strerror})") from fault
        keys = []
        for child in children[:_MOST_SHOWN]:
            path = os.path.join(folder.path, child)
            if self._is_allowed(path):
                keys.append(self._add(path, f"{folder.name}/{readable(child)}"))
        return schemas.FolderListing(
            parent=self._shown(parent, counts), folders=[self._shown(key, counts) for key in keys]
        )

    def find(self, folder: str) -> _Known:
        """The folder that an id means.

        Raises:
            ProblemError: it was not shown, is gone, or is a link that leads outside.
        """
        found = self._known.get(folder)
        if found is None:
            raise ProblemError(
                "not-found", f"no folder that may be indexed has the id {folder}; list the folders again"
            )
        if not os.path.isdir(found.path):
            raise ProblemError("gone", f"{found.name}: is not a folder any more")
        if not self._is_allowed(found.path):
            raise ProblemError("outside", f"{found.name}: leads out of the folders that may be indexed")
        return found

    def _is_allowed(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == root or real.startswith(os.path.join(root, "")) for root in self._real_roots)

    def _add(self, path: str, name: str) -> str:
        key = id_of("folder to index", path)
        if key in self._known or len(self._known) < _MOST_KNOWN:
            self._known[key] = _Known(path, readable(name))
        return key

    def _shown(self, key: str, counts: dict[str, int]) -> schemas.Folder:
        found = self._known[key]
        inside = os.path.join(found.path, "")
        items = sum(count for path, count in counts.items() if path == found.path or path.startswith(inside))
        return schemas.Folder(id=key, name=found.name, items=items)
