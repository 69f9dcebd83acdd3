"""A gallery: a frozen list of clips to rank. Metrics compare only on the same candidates.

The file is JSON: `format`, `count`, `sha256`, `ids` (sorted). The hash is of the ids alone, as one compact JSON list.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cmmixer.errors import DataError
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.storage.metadata import FolderMetadata, MetadataFile

# How many ids a message names.
_NAMED = 3


@dataclass(frozen=True)
class Gallery:
    """Sorted, unique clip ids, and the sha256 that names them."""

    ids: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, available: Sequence[str]) -> list[int]:
        """Returns the position of each of the gallery's clips in the ids of a data set.

        Raises:
            DataError: the data set lacks some of them; the first few are named.
        """
        position_of = {clip_id: position for position, clip_id in enumerate(available)}
        missing = [clip_id for clip_id in self.ids if clip_id not in position_of]
        if missing:
            raise DataError(
                f"the data lacks {len(missing)} of the gallery's {len(self)} clips ({_first(missing)}); "
                "evaluate on the data it was frozen from, or freeze a new gallery"
            )
        return [position_of[clip_id] for clip_id in self.ids]


@dataclass(frozen=True)
class _GalleryFile(FolderMetadata):
    FILE: ClassVar[MetadataFile] = MetadataFile(
        what="gallery",
        name="gallery.json",
        format=1,
        error=DataError,
        make="write one with `cmmixer evaluate --gallery`",
        remake="freeze a new one with `cmmixer evaluate --gallery`",
    )

    count: int
    sha256: str
    ids: tuple[str, ...]


def freeze(ids: Iterable[str]) -> Gallery:
    """Makes a gallery of these clips, in sorted order.

    Raises:
        DataError: no clips, or a clip twice.
    """
    ordered = tuple(sorted(ids))
    if not ordered:
        raise DataError("a gallery needs clips; got none")
    twice = sorted({first for first, second in itertools.pairwise(ordered) if first == second})
    if twice:
        raise DataError(f"a gallery's clips must be unique; {len(twice)} come more than once ({_first(twice)})")
    return Gallery(ordered, _hash(ordered))


def save_gallery(gallery: Gallery, path: str | Path) -> None:
    """Writes the file of a gallery atomically.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    content = _GalleryFile(count=len(gallery), sha256=gallery.sha256, ids=gallery.ids)
    with explain_full_disk(Path(path), DataError):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.to_text())


def load_gallery(path: str | Path) -> Gallery:
    """Reads the file of a gallery and verifies it.

    Raises:
        DataError: the file is missing, not a gallery, of another format, or changed since it was frozen.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"gallery {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _GalleryFile.FILE.damaged(f"gallery {path}", f"not UTF-8: {error.reason}") from error
    content = _GalleryFile.from_text(text, f"gallery {path}")
    gallery = freeze(content.ids)
    if (content.ids, content.sha256) != (gallery.ids, gallery.sha256):
        raise DataError(f"gallery {path}: changed since it was frozen (sha256 of its ids differs); freeze a new one")
    return gallery


def _hash(ids: Sequence[str]) -> str:
    # ASCII escapes, because a file name may contain bytes that are not UTF-8.
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode("ascii")).hexdigest()


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
