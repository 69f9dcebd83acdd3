"""The clip store: decoded clips in one folder, made for fast reading in any order.

    store.json         what it holds and how it was made, for people and programs
    clips.lance/       a Lance table, one row a clip: frames as JPEG, sound windows as 16-bit PCM
    journal.jsonl      films that gave no clip, or only some, in the order they were met
    skipped.json, .txt the same as a report, written when `prepare` ends

Rows are only ever added, and a commit shows all its rows or none, whatever kills the writer.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from cmmixer.atomic import LOCK, write_atomically
from cmmixer.config.check import from_dict
from cmmixer.config.clip import ClipSettings
from cmmixer.data.film_rows import FilmRows, decode_jpeg
from cmmixer.data.manifest import Entry, readable
from cmmixer.errors import StoreError
from cmmixer.types import Clip, Frames, SoundWindows, Span

FORMAT = 1
CARD, TABLE, JOURNAL = "store.json", "clips.lance", "journal.jsonl"
OWN_FILES = (CARD, TABLE, JOURNAL, LOCK, "skipped.json", "skipped.txt")

SCHEMA = pa.schema(
    [
        ("id", pa.utf8()),
        ("entry", pa.utf8()),
        ("path", pa.utf8()),
        ("source", pa.utf8()),
        ("label", pa.utf8()),
        ("split", pa.utf8()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("frame_times", pa.list_(pa.float64())),
        ("frames", pa.list_(pa.large_binary())),
        ("windows", pa.large_binary()),
        ("sample_rate_hz", pa.int32()),
        ("film_fingerprint", pa.utf8()),
    ]
)
CLIP_COLUMNS = [name for name in SCHEMA.names if name not in ("entry", "path", "split", "film_fingerprint")]


@dataclass(frozen=True)
class StoreCard:
    """What a store holds and how it was made.

    Attributes:
        clip: geometry of its clips.
        data: where its films came from.
        split: the split it was restricted to.
        stride_seconds: distance between the starts of two clips of a film.
        jpeg_quality: of its frames.
        silence_dbfs: films whose loudest window stays below this were left out.
        complete: whether every film was met; a killed `prepare` leaves False.
        created_by: version of this package.
        format: version of the folder's layout.
    """

    clip: ClipSettings
    data: str
    split: str | None
    stride_seconds: float
    jpeg_quality: int
    silence_dbfs: float
    complete: bool
    created_by: str
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> StoreCard:
        """The card of a store.

        Raises:
            StoreError: no store there, a damaged card, or one of another version.
        """
        if not (folder / CARD).is_file():
            raise StoreError(f"{folder}: no clip store there ({CARD} is missing); make one with `cmmixer prepare`")
        try:
            values = json.loads((folder / CARD).read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise StoreError(f"{folder}: store format {values['format']}, expected {FORMAT}; prepare it again")
            return cls(**{**values, "clip": from_dict(ClipSettings, values["clip"], f"{folder / CARD}")})
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder / CARD}: damaged: {error!r}; prepare the store again with --overwrite"
            ) from error

    def write(self, folder: Path) -> None:
        write_atomically(folder / CARD, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def differences(self, other: StoreCard) -> list[str]:
        """Where two cards were made differently, in words; where the films are and who made it does not count."""
        names = ("data", "split", "stride_seconds", "jpeg_quality", "silence_dbfs")
        told = [
            f"{name} {getattr(self, name)} there, {getattr(other, name)} asked for"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
        return differences(self.clip, other.clip) + told


def differences(there: ClipSettings, asked: ClipSettings) -> list[str]:
    """Where two geometries differ, in words."""
    names = [field.name for field in dataclasses.fields(ClipSettings)]
    pairs = [(name, getattr(there, name), getattr(asked, name)) for name in names]
    return [f"{name} {has} there, {wants} asked for" for name, has, wants in pairs if has != wants]


class ClipStore:
    """A clip store opened for reading. May be handed to other processes; each opens the table for itself.

    Attributes:
        folder: where it lies.
        card: how it was made.
        ids, sources, labels, splits: of its clips, by row.
    """

    def __init__(self, folder: Path, card: StoreCard) -> None:
        self.folder, self.card = folder, card
        self._table: lance.LanceDataset | None = None
        with _damage_told(folder):
            columns = self._open().to_table(columns=["id", "source", "label", "split"], scan_in_order=True)
        self.ids, self.sources, self.labels, self.splits = (column.to_pylist() for column in columns.columns)

    @classmethod
    def open(cls, folder: str | Path) -> ClipStore:
        """Opens a store, also one whose `prepare` has not finished; see `card.complete`.

        Raises:
            StoreError: no store there, or a damaged one.
        """
        return cls(Path(folder), StoreCard.read(Path(folder)))

    @staticmethod
    def is_store(folder: str | Path) -> bool:
        """Whether a folder says that it is a clip store."""
        return (Path(folder) / CARD).is_file()

    @property
    def settings(self) -> ClipSettings:
        """Geometry of its clips."""
        return self.card.clip

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: Sequence[int]) -> list[Clip]:
        """Clips by row, in the order asked for.

        Raises:
            StoreError: the table is damaged.
            IndexError: no such row.
        """
        if any(not 0 <= index < len(self) for index in indices):
            raise IndexError(f"{self.folder}: rows {list(indices)} asked for, there are {len(self)}")
        if not indices:
            return []
        with _damage_told(self.folder):
            rows = self._open().take(list(indices), columns=CLIP_COLUMNS).to_pylist()
        return [_clip(row) for row in rows]

    def _open(self) -> lance.LanceDataset:
        if self._table is None:
            self._table = open_table(self.folder)
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        # Lance keeps threads and open files; the other process makes its own.
        return {**self.__dict__, "_table": None}


class StoreWriter:
    """Adds the rows of films to a store, a few films at a time. One process at a time may write.

    Args:
        folder: an existing folder that holds nothing but a store, or nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        table = folder / TABLE
        if not (table / "_versions").is_dir() or not any((table / "_versions").iterdir()):
            shutil.rmtree(table, ignore_errors=True)
            lance.write_dataset(pa.Table.from_pylist([], SCHEMA), str(table), mode="create")

    def films(self) -> dict[str, tuple[str, str]]:
        """The films whose rows are committed: entry key -> (path, fingerprint)."""
        columns = open_table(self.folder).to_table(columns=["entry", "path", "film_fingerprint"], scan_in_order=True)
        return {row["entry"]: (row["path"], row["film_fingerprint"]) for row in columns.to_pylist()}

    def add(self, entry: Entry, film: FilmRows, sample_rate_hz: int) -> None:
        """Takes the clips of a film; `commit` shows them."""
        for clip in film.clips:
            self._pending.append(
                {
                    "id": clip.id,
                    "entry": entry.key,
                    "path": readable(entry.path),
                    "source": entry.source,
                    "label": entry.label,
                    "split": entry.split,
                    "start_seconds": clip.span.start_seconds,
                    "end_seconds": clip.span.end_seconds,
                    "frame_times": clip.times_seconds,
                    "frames": clip.jpegs,
                    "windows": clip.windows,
                    "sample_rate_hz": sample_rate_hz,
                    "film_fingerprint": film.fingerprint,
                }
            )
            self._pending_bytes += len(clip.windows) + sum(map(len, clip.jpegs))

    @property
    def pending_bytes(self) -> int:
        """Bytes of pictures and sound that are not committed yet."""
        return self._pending_bytes

    def commit(self) -> int:
        """Writes the pending rows in one atomic step; returns how many."""
        count = len(self._pending)
        if count:
            lance.write_dataset(pa.Table.from_pylist(self._pending, SCHEMA), str(self.folder / TABLE), mode="append")
            self._pending, self._pending_bytes = [], 0
        return count

    def tidy(self) -> None:
        """Removes older versions of the table's list of files, and files that killed writers left."""
        open_table(self.folder).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)


def open_table(folder: Path) -> lance.LanceDataset:
    """The table of a store.

    Raises:
        StoreError: missing or damaged.
    """
    with _damage_told(folder):
        return lance.dataset(str(folder / TABLE))


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Lance's errors (ValueError for what is missing, OSError, Arrow's ValueErrors) as one clear line."""
    try:
        yield
    except (ValueError, OSError) as error:
        told = f"missing or damaged ({_first_line(error)}); prepare it again with --overwrite"
        raise StoreError(f"{folder / TABLE}: {told}") from error


def _first_line(error: Exception) -> str:
    """Lance's messages go on with places in its own source."""
    return str(error).splitlines()[0].split(", /")[0][:200]


def _clip(row: dict[str, Any]) -> Clip:
    times_T = np.array(row["frame_times"], dtype=np.float64)
    samples = np.frombuffer(row["windows"], dtype="<i2").astype(np.int16)  # a copy: others may write to it
    return Clip(
        id=row["id"],
        source=row["source"],
        label=row["label"],
        span=Span(row["start_seconds"], row["end_seconds"]),
        frames=Frames(np.stack([decode_jpeg(jpeg) for jpeg in row["frames"]]), times_T),
        sound=SoundWindows(samples.reshape(len(times_T), -1), times_T, row["sample_rate_hz"]),
    )
