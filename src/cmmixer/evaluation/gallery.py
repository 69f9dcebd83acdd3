"""A gallery is a frozen list of clips: a number is only comparable on the same candidates.

The file is JSON: `format`, `count`, `sha256`, `ids` (sorted). The hash is of the ids alone, as one compact JSON list.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmmixer.errors import DataError
from cmmixer.storage.files import explain_full_disk, write_atomically

FORMAT = 1
# How many ids a message names.
NAMED = 3


@dataclass(frozen=True)
class Gallery:
    """Sorted, unique clip ids, and the sha256 that names them."""

    ids: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, available: Sequence[str]) -> list[int]:
        """Where each of the gallery's clips stands in a data set's ids, in the gallery's order.

        Raises:
            DataError: the data lacks some of them; the first few are named.
        """
        place = {clip_id: position for position, clip_id in enumerate(available)}
        missing = [clip_id for clip_id in self.ids if clip_id not in place]
        if missing:
            raise DataError(
                f"the data lacks {len(missing)} of the gallery's {len(self)} clips ({_some(missing)}); "
                "evaluate on the data it was frozen from, or freeze a new gallery"
            )
        return [place[clip_id] for clip_id in self.ids]


def freeze(ids: Iterable[str]) -> Gallery:
    """A gallery of these clips, in sorted order.

    Raises:
        DataError: no clip, or one twice.
    """
    ordered = tuple(sorted(ids))
    if not ordered:
        raise DataError("a gallery needs clips; got none")
    twice = sorted({first for first, second in itertools.pairwise(ordered) if first == second})
    if twice:
        raise DataError(f"a gallery's clips must be unique; {len(twice)} come more than once ({_some(twice)})")
    return Gallery(ordered, _hash(ordered))


def save_gallery(gallery: Gallery, path: str | Path) -> None:
    """Writes the gallery's file, whole or not at all.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    values = {"format": FORMAT, "count": len(gallery), "sha256": gallery.sha256, "ids": gallery.ids}
    with explain_full_disk(Path(path), DataError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), json.dumps(values, indent=1) + "\n")


def load_gallery(path: str | Path) -> Gallery:
    """Reads a gallery's file and verifies it.

    Raises:
        DataError: missing, no gallery, of another format, or changed since it was frozen.
    """
    try:
        values = json.loads(Path(path).read_text())
    except OSError as fault:
        raise DataError(f"gallery {path}: cannot be read ({fault.strerror})") from fault
    except ValueError as fault:
        raise DataError(f"gallery {path}: not a JSON file ({fault})") from fault
    ids = values.get("ids") if isinstance(values, dict) else None
    if not isinstance(ids, list) or not all(isinstance(clip_id, str) for clip_id in ids):
        raise DataError(f"gallery {path}: no list of `ids`; expected a file that `cmmixer evaluate --gallery` wrote")
    if values.get("format") != FORMAT:
        raise DataError(
            f"gallery {path}: got format {values.get('format')}, expected {FORMAT}; use the version that wrote it"
        )
    gallery = freeze(ids)
    if tuple(ids) != gallery.ids or values.get("sha256") != gallery.sha256:
        raise DataError(f"gallery {path}: changed since it was frozen (sha256 of its ids differs); freeze a new one")
    return gallery


def _hash(ids: tuple[str, ...]) -> str:
    # ASCII escapes, because a file name may hold bytes that are no UTF-8.
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode("ascii")).hexdigest()


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
