"""Folders that may be indexed from outside: those the operator allows and what lies inside them, by ids, never by paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cmmixer.data.manifest import readable
from cmmixer.serving import schema
from cmmixer.serving.entry import id_of
from cmmixer.serving.problems import ProblemError

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

    def listing(self, parent: str | None, counts: dict[str, int]) -> schema.FolderListing:
        """The allowed folders, or those inside one.

        Args:
            parent: id of a folder that was shown before.
            counts: for each path how many files of the library lie in and below it.

        Raises:
            ProblemError: it is not known, or lies outside by now.
        """
        if parent is None:
            return schema.FolderListing(parent=None, folders=[self._shown(key, counts) for key in self._tops])
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
        return schema.FolderListing(
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

    def _shown(self, key: str, counts: dict[str, int]) -> schema.Folder:
        found = self._known[key]
        inside = os.path.join(found.path, "")
        items = sum(count for path, count in counts.items() if path == found.path or path.startswith(inside))
        return schema.Folder(id=key, name=found.name, items=items)
