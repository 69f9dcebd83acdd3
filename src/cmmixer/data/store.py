"""The clip store: decoded clips in one folder, made for fast reading in any order.

    store.json         what it holds and how it was made, for people and programs
    clips.lance/       a Lance table, one row a clip: frames as JPEG, one after the other, sound windows as 16-bit PCM
    journal.jsonl      films that gave no clip, or only some, in the order they were met
    skipped.json, .txt the same as a report, written when `prepare` ends

Rows are only ever added, and a commit shows all its rows or none, whatever kills the writer.

Where a store's pictures and sounds lie in its files, and reading them from there.

Lance keeps values of such columns aside ("blobs") and says at which byte of which file each one begins. On a disk they are read
from there straight to where they are wanted; through Lance's own reader a clip's sound alone takes a third as long as decoding
its pictures does (docs/lab-notebook.md, 2026-11-26).

Letters: B values asked for, C clips of the store.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config.base import from_dict
from cmmixer.config.clip import ClipSettings
from cmmixer.data.clip_encoding import decode_jpeg
from cmmixer.errors import StoreError
from cmmixer.storage.files import LOCK
from cmmixer.storage.folder import Folder, Place, open_folder, server_told
from cmmixer.types import Clip, Frames, SoundWindows, Span

# A row's address: its fragment's number in the upper half, its number in there in the lower.
_FRAGMENT_BITS = np.uint64(32)


@dataclass(frozen=True)
class KeptAside:
    """Where the values of one column lie.

    Attributes:
        files: full names of the files.
        file_C: which of them holds a clip's value.
        position_C, size_C: of the value in there, in bytes.
    """

    files: list[str]
    file_C: NDArray[np.int64]
    position_C: NDArray[np.int64]
    size_C: NDArray[np.int64]

    @classmethod
    def of(cls, table: lance.LanceDataset, place: str, rows: pa.Table, column: str) -> KeptAside:
        """Reads off where they lie.

        Args:
            table: the table of clips.
            place: its folder.
            rows: all its rows in order, with the column as Lance describes it, and `_rowaddr`.
            column: its name.
        """
        fragments = [(one.fragment_id, one.data_files()[0].path) for one in table.get_fragments()]
        numbers = np.array([number for number, _ in fragments], np.int64)
        held_C = (rows["_rowaddr"].to_numpy() >> _FRAGMENT_BITS).astype(np.int64)
        told = rows[column].combine_chunks()
        position_C, size_C = (told.field(name).to_numpy().astype(np.int64) for name in ("position", "size"))
        files = [f"{place}/data/{path}" for _, path in fragments]
        return cls(files, np.searchsorted(numbers, held_C), position_C, size_C)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Values by row, from files on a disk.

        Raises:
            OSError: a file is not there.
            ValueError: a file ends early.
        """
        values = [bytearray(int(self.size_C[index])) for index in indices]
        self.read_into(indices, values)
        return [bytes(value) for value in values]

    def read_into(self, indices: Sequence[int], places: Sequence[NDArray[Any] | bytearray]) -> None:
        """Reads values of files on a disk.

        Args:
            indices: B rows.
            places: B arrays in one piece, which are given the values.

        Raises:
            OSError: a file is not there.
            ValueError: a file ends early, or a value has another length than its place.
        """
        for index, place in zip(indices, places, strict=True):
            path = self.files[self.file_C[index]]
            wanted = memoryview(place).cast("B")  # type: ignore[arg-type]  # NumPy does not say that it has a buffer
            if self.size_C[index] != len(wanted):
                raise ValueError(f"{Path(path).name}: got {self.size_C[index]} bytes, expected {len(wanted)}")
            file = os.open(path, os.O_RDONLY)
            try:
                _fill(file, wanted, int(self.position_C[index]), path)
            finally:
                os.close(file)


def _fill(file: int, wanted: memoryview, position: int, path: str) -> None:
    while wanted:
        got = os.preadv(file, [wanted], position)
        if not got:
            raise ValueError(f"{Path(path).name}: ends early, at byte {position}")
        wanted, position = wanted[got:], position + got


FORMAT = 2

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
        ("frame_bytes", pa.list_(pa.int32())),
        # Kept aside and as they are, so that their places in a file can be asked for: see `kept_aside`.
        pa.field("frames", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
        pa.field("windows", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
        ("sample_rate_hz", pa.int32()),
        ("film_fingerprint", pa.utf8()),
    ]
)

ASIDE = ("frames", "windows")

TOLD_OF_A_CLIP = ["id", "source", "label", "start_seconds", "end_seconds", "frame_times", "sample_rate_hz"]

# The last version of Lance's files in which a value kept aside lies in the file of its row.
FILE_VERSION = "2.1"


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
    def read(cls, folder: Folder) -> StoreCard:
        """The card of a store.

        Raises:
            StoreError: no store there, a damaged card, or one of another version.
            InputError: object storage that cannot be reached.
        """
        try:
            values = json.loads(folder.read_text(CARD))
            if values["format"] != FORMAT:
                raise StoreError(f"{folder}: store format {values['format']}, expected {FORMAT}; prepare it again")
            return cls(**{**values, "clip": from_dict(ClipSettings, values["clip"], folder.child(CARD))})
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(
                f"{folder}: no clip store there ({CARD} is missing); make one with `cmmixer prepare`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder.child(CARD)}: damaged: {error!r}; prepare the store again with --overwrite"
            ) from error

    def write(self, folder: Folder) -> None:
        folder.write_text(CARD, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

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

    def __init__(self, folder: Folder, card: StoreCard) -> None:
        self.folder, self.card = folder, card
        self._table: lance.LanceDataset | None = None
        with _damage_told(folder):
            table, names = self._open(), ["id", "source", "label", "split"]
            columns = [*names, "frame_bytes", *ASIDE]
            rows = table.to_table(columns=columns, with_row_address=True, scan_in_order=True)
            self._aside = {name: KeptAside.of(table, folder.child(TABLE), rows, name) for name in ASIDE}
            sizes_F = rows["frame_bytes"].combine_chunks().flatten().to_numpy()
            self._frame_bytes_CT = sizes_F.reshape(len(rows), card.clip.frames)
        self.ids, self.sources, self.labels, self.splits = (rows[name].to_pylist() for name in names)

    @classmethod
    def open(cls, place: Place) -> ClipStore:
        """Opens a store, also one whose `prepare` has not finished; see `card.complete`.

        Raises:
            StoreError: no store there, or a damaged one.
        """
        folder = open_folder(place)
        return cls(folder, StoreCard.read(folder))

    @staticmethod
    def is_store(place: Place) -> bool:
        """Whether a folder says that it is a clip store.

        Raises:
            InputError: object storage that cannot be reached.
        """
        return open_folder(place).has(CARD)

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
        rows = self._take(indices, TOLD_OF_A_CLIP).to_pylist()
        jpegs, sounds = self.jpegs(indices), self._values("windows", indices)
        with _damage_told(self.folder):
            return [_clip(*one, self.settings) for one in zip(rows, jpegs, sounds, strict=True)]

    def read_into(self, indices: Sequence[int], video_BTCHW: NDArray[np.uint8], audio_BTN: NDArray[np.int16]) -> None:
        """Decodes clips by row straight to where a batch wants them, in the order asked for.

        Args:
            indices: B rows.
            video_BTCHW: is given their pictures.
            audio_BTN: is given their sound windows.

        Raises:
            StoreError: the table is damaged, or was written anew since it was opened.
        """
        if self.folder.storage_options is None:
            with self._trouble_told():
                self._aside["windows"].read_into(indices, list(audio_BTN))
        else:
            for samples_TN, sound in zip(audio_BTN, self._values("windows", indices), strict=True):
                samples_TN.reshape(-1)[:] = np.frombuffer(sound, "<i2")
        jpegs = self.jpegs(indices)
        with _damage_told(self.folder):
            for jpegs_T, planes_TCHW in zip(jpegs, video_BTCHW, strict=True):
                for jpeg, planes_CHW in zip(jpegs_T, planes_TCHW, strict=True):
                    decode_jpeg(jpeg, planes_CHW)

    def jpegs(self, indices: Sequence[int]) -> list[list[bytes]]:
        """The pictures of clips by row as they are stored.

        Raises:
            StoreError: the table is damaged, or was written anew since it was opened.
        """
        found = self._values("frames", indices)
        return [_cut(value, self._frame_bytes_CT[index]) for index, value in zip(indices, found, strict=True)]

    def _values(self, column: str, indices: Sequence[int]) -> list[bytes]:
        """Values that are kept aside: read from the disk, or fetched by Lance, all at once."""
        if self.folder.storage_options is None:
            with self._trouble_told():
                return self._aside[column].read(indices)
        self._take(indices, ["id"])
        with _damage_told(self.folder):
            found = self._open().read_blobs(column, indices=list(indices), preserve_order=True)
        return [value for _, value in found]

    @contextmanager
    def _trouble_told(self) -> Iterator[None]:
        try:
            with _damage_told(self.folder):
                yield
        except StoreError as error:
            # Names of files are never used again: one that is gone belongs to a table that is.
            if isinstance(error.__cause__, FileNotFoundError):
                raise self._prepared_anew() from error
            raise

    def _prepared_anew(self) -> StoreError:
        return StoreError(f"{self.folder}: was prepared anew while it was read; start again")

    def _take(self, indices: Sequence[int], columns: list[str]) -> pa.Table:
        with _damage_told(self.folder):
            table = self._open().take(list(indices), columns=columns)
        found = table["id"].to_pylist()
        if found != [self.ids[index] for index in indices]:
            raise self._prepared_anew()
        return table

    def _open(self) -> lance.LanceDataset:
        if self._table is None:
            self._table = open_table(self.folder)
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        # Lance keeps threads and open files; the other process makes its own.
        return {**self.__dict__, "_table": None}


def open_table(folder: Folder) -> lance.LanceDataset:
    """The table of a store.

    Raises:
        StoreError: missing or damaged.
    """
    with _damage_told(folder):
        return lance.dataset(folder.child(TABLE), storage_options=folder.storage_options)


@contextmanager
def _damage_told(folder: Folder) -> Iterator[None]:
    """Lance's errors (ValueError for what is missing, OSError, Arrow's ValueErrors) as one clear line."""
    try:
        with server_told(folder):
            yield
    except (ValueError, OSError) as error:
        told = f"missing or damaged ({_first_line(error)}); prepare it again with --overwrite"
        raise StoreError(f"{folder.child(TABLE)}: {told}") from error


def _first_line(error: Exception) -> str:
    """Lance's messages go on with places in its own source."""
    return str(error).splitlines()[0].split(", /")[0][:200]


def _cut(value: bytes, sizes_T: NDArray[np.int32]) -> list[bytes]:
    ends_T = np.cumsum(sizes_T).tolist()
    return [value[begin:end] for begin, end in itertools.pairwise([0, *ends_T])]


def _clip(row: dict[str, Any], jpegs: list[bytes], sound: bytes, clip: ClipSettings) -> Clip:
    times_T = np.array(row["frame_times"], dtype=np.float64)
    samples = np.frombuffer(sound, dtype="<i2").astype(np.int16)  # a copy: others may write to it
    planes_TCHW = np.empty((len(times_T), 3, clip.height, clip.width), np.uint8)
    for jpeg, planes_CHW in zip(jpegs, planes_TCHW, strict=True):
        decode_jpeg(jpeg, planes_CHW)
    return Clip(
        id=row["id"],
        source=row["source"],
        label=row["label"],
        span=Span(row["start_seconds"], row["end_seconds"]),
        frames=Frames(np.ascontiguousarray(planes_TCHW.transpose(0, 2, 3, 1)), times_T),
        sound=SoundWindows(samples.reshape(len(times_T), -1), times_T, row["sample_rate_hz"]),
    )
