"""The clip store: decoded clips in one folder, laid out for fast reading in any order.

    store.json         what it holds and how it was made, for people and programs
    clips.lance/       a Lance table with one row per clip: frames as JPEGs, audio windows as 16-bit PCM
    journal.jsonl      videos that gave no clip, or only some, in the order they were met
    skipped.json, .txt the same as a report, written when `prepare` ends

Rows are only ever added. A commit shows all its rows or none, whatever kills the writer.

Letters: B requested clips, C clips of the store, T frames, H x W pixels, N samples of an audio window.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cmmixer.config.clip import ClipSettings
from cmmixer.data.blobs import BlobColumn
from cmmixer.data.clip_encoding import decode_jpeg
from cmmixer.errors import StoreError
from cmmixer.storage.files import LOCK
from cmmixer.storage.folder import Folder, Location, explain_server_errors, open_folder
from cmmixer.storage.metadata import FolderMetadata, MetadataFile
from cmmixer.types import AudioWindows, Clip, Frames, Span

FORMAT = 3

METADATA, TABLE, JOURNAL = "store.json", "clips.lance", "journal.jsonl"

OWN_FILES = (METADATA, TABLE, JOURNAL, LOCK, "skipped.json", "skipped.txt")

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
        # Stored uncompressed, so that they can be read from the file directly: see `cmmixer.data.blobs`.
        pa.field("frames", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
        pa.field("windows", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
        ("sample_rate_hz", pa.int32()),
        ("video_fingerprint", pa.utf8()),
    ]
)

_BLOB_COLUMNS = ("frames", "windows")

_CLIP_COLUMNS = ["id", "source", "label", "start_seconds", "end_seconds", "frame_times", "sample_rate_hz"]

# The last version of Lance's files in which a blob lies in the same file as its row.
FILE_VERSION = "2.1"


@dataclass(frozen=True)
class StoreMetadata(FolderMetadata):
    """What a store holds and how it was made.

    Attributes:
        clip: geometry of its clips.
        data: where its videos came from.
        split: the split it is limited to, if any.
        stride_seconds: distance between the starts of two clips of a video.
        jpeg_quality: of its frames.
        silence_dbfs: videos whose loudest audio window is below this were left out.
        complete: whether every video was processed; False after a `prepare` that was killed.
        created_by: version of this package.
    """

    FILE: ClassVar[MetadataFile] = MetadataFile(
        what="clip store",
        name=METADATA,
        format=FORMAT,
        error=StoreError,
        make="make one with `cmmixer prepare`",
        remake="prepare the store again with --overwrite",
    )

    clip: ClipSettings
    data: str
    split: str | None
    stride_seconds: float
    jpeg_quality: int
    silence_dbfs: float
    complete: bool
    created_by: str

    def differences(self, requested: StoreMetadata) -> list[str]:
        """Returns how a requested store would differ, in words; who made it and how far does not count."""
        names = ("data", "split", "stride_seconds", "jpeg_quality", "silence_dbfs")
        return differences(self.clip, requested.clip) + _differing_fields(names, self, requested)


def differences(stored: ClipSettings, requested: ClipSettings) -> list[str]:
    """Returns how two geometries differ, in words."""
    return _differing_fields([field.name for field in dataclasses.fields(ClipSettings)], stored, requested)


def _differing_fields(names: Sequence[str], stored: object, requested: object) -> list[str]:
    pairs = [(name, getattr(stored, name), getattr(requested, name)) for name in names]
    return [f"{name}: got {wanted}, holds {has}" for name, has, wanted in pairs if has != wanted]


class ClipStore:
    """A clip store opened for reading. It may be pickled; each process opens the table for itself.

    Attributes:
        folder: where it lies.
        metadata: what it holds and how it was made.
        ids, sources, labels, splits: of its clips, by row.
    """

    def __init__(self, folder: Folder, metadata: StoreMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self._table: lance.LanceDataset | None = None
        with _explain_damage(folder):
            table, names = self._open(), ["id", "source", "label", "split"]
            columns = [*names, "frame_bytes", *_BLOB_COLUMNS]
            rows = table.to_table(columns=columns, with_row_address=True, scan_in_order=True)
            self._blobs = {name: BlobColumn.locate(table, folder.child(TABLE), rows, name) for name in _BLOB_COLUMNS}
            sizes_F = rows["frame_bytes"].combine_chunks().flatten().to_numpy()
            self._frame_bytes_CT = sizes_F.reshape(len(rows), metadata.clip.frames)
        self.ids, self.sources, self.labels, self.splits = (rows[name].to_pylist() for name in names)

    @classmethod
    def open(cls, location: Location) -> ClipStore:
        """Opens a store, even one whose `prepare` has not finished; see `metadata.complete`.

        Raises:
            StoreError: there is no store, it is damaged, or of another format.
        """
        folder = open_folder(location)
        return cls(folder, StoreMetadata.read(folder))

    @staticmethod
    def is_store(location: Location) -> bool:
        """Whether a folder has the metadata file of a clip store.

        Raises:
            InputError: object storage that cannot be reached.
        """
        return open_folder(location).has(METADATA)

    @property
    def settings(self) -> ClipSettings:
        """Geometry of its clips."""
        return self.metadata.clip

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: Sequence[int]) -> list[Clip]:
        """Reads clips by row, in the order of `indices`.

        Raises:
            StoreError: the table is damaged.
            IndexError: no such row.
        """
        if any(not 0 <= index < len(self) for index in indices):
            raise IndexError(f"{self.folder}: got rows {list(indices)}, expected 0 to {len(self) - 1}")
        if not indices:
            return []
        rows = self._take(indices, _CLIP_COLUMNS).to_pylist()
        jpegs, windows = self.jpegs(indices), self._values("windows", indices)
        with _explain_damage(self.folder):
            return [_clip(*values, self.settings) for values in zip(rows, jpegs, windows, strict=True)]

    def read_into(self, indices: Sequence[int], video_BTCHW: NDArray[np.uint8], audio_BTN: NDArray[np.int16]) -> None:
        """Decodes clips by row into the arrays of a batch, in the order of `indices`.

        Args:
            indices: B rows.
            video_BTCHW: filled with their frames.
            audio_BTN: filled with their audio windows.

        Raises:
            StoreError: the table is damaged, or was overwritten since it was opened.
        """
        if self.folder.storage_options is None:
            with self._explain_overwrite():
                self._blobs["windows"].read_into(indices, list(audio_BTN))
        else:
            for samples_TN, windows in zip(audio_BTN, self._values("windows", indices), strict=True):
                samples_TN.reshape(-1)[:] = np.frombuffer(windows, "<i2")
        jpegs = self.jpegs(indices)
        with _explain_damage(self.folder):
            for jpegs_T, planes_TCHW in zip(jpegs, video_BTCHW, strict=True):
                for jpeg, planes_CHW in zip(jpegs_T, planes_TCHW, strict=True):
                    decode_jpeg(jpeg, planes_CHW)

    def jpegs(self, indices: Sequence[int]) -> list[list[bytes]]:
        """Reads the frames of clips by row, as they are stored.

        Raises:
            StoreError: the table is damaged, or was overwritten since it was opened.
        """
        frames = self._values("frames", indices)
        return [_split(value, self._frame_bytes_CT[index]) for index, value in zip(indices, frames, strict=True)]

    def _values(self, column: str, indices: Sequence[int]) -> list[bytes]:
        """Reads blobs: directly from a disk, or through Lance from object storage, in one request."""
        if self.folder.storage_options is None:
            with self._explain_overwrite():
                return self._blobs[column].read(indices)
        self._take(indices, ["id"])
        with _explain_damage(self.folder):
            blobs = self._open().read_blobs(column, indices=list(indices), preserve_order=True)
        return [value for _, value in blobs]

    @contextmanager
    def _explain_overwrite(self) -> Iterator[None]:
        try:
            with _explain_damage(self.folder):
                yield
        except StoreError as error:
            # Lance never reuses a file name: if one is gone, its table was replaced.
            if isinstance(error.__cause__, FileNotFoundError):
                raise self._overwritten_error() from error
            raise

    def _overwritten_error(self) -> StoreError:
        return StoreError(f"{self.folder}: was prepared again while it was read; start again")

    def _take(self, indices: Sequence[int], columns: list[str]) -> pa.Table:
        with _explain_damage(self.folder):
            table = self._open().take(list(indices), columns=columns)
        if table["id"].to_pylist() != [self.ids[index] for index in indices]:
            raise self._overwritten_error()
        return table

    def _open(self) -> lance.LanceDataset:
        if self._table is None:
            self._table = open_table(self.folder)
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        # Lance keeps threads and open files; another process opens its own.
        return {**self.__dict__, "_table": None}


def open_table(folder: Folder) -> lance.LanceDataset:
    """Opens the table of a store.

    Raises:
        StoreError: it is missing or damaged.
    """
    with _explain_damage(folder):
        return lance.dataset(folder.child(TABLE), storage_options=folder.storage_options)


@contextmanager
def _explain_damage(folder: Folder) -> Iterator[None]:
    """Turns the errors of Lance, Arrow and the system about a table into one line.

    Raises:
        StoreError: the table is missing or damaged.
    """
    try:
        with explain_server_errors(folder):
            yield
    except (ValueError, OSError) as error:
        message = f"missing or damaged ({_first_line(error)}); prepare it again with --overwrite"
        raise StoreError(f"{folder.child(TABLE)}: {message}") from error


def _first_line(error: Exception) -> str:
    """Returns an error's message without the source locations that Lance appends."""
    return str(error).splitlines()[0].split(", /")[0][:200]


def _split(value: bytes, sizes_T: NDArray[np.int32]) -> list[bytes]:
    ends_T = np.cumsum(sizes_T).tolist()
    return [value[begin:end] for begin, end in itertools.pairwise([0, *ends_T])]


def _clip(row: dict[str, Any], jpegs: list[bytes], windows: bytes, clip: ClipSettings) -> Clip:
    times_T = np.array(row["frame_times"], dtype=np.float64)
    samples = np.frombuffer(windows, dtype="<i2").astype(np.int16)  # a writable copy
    planes_TCHW = np.empty((len(times_T), 3, clip.height, clip.width), np.uint8)
    for jpeg, planes_CHW in zip(jpegs, planes_TCHW, strict=True):
        decode_jpeg(jpeg, planes_CHW)
    return Clip(
        id=row["id"],
        source=row["source"],
        label=row["label"],
        span=Span(row["start_seconds"], row["end_seconds"]),
        frames=Frames(np.ascontiguousarray(planes_TCHW.transpose(0, 2, 3, 1)), times_T),
        sound=AudioWindows(samples.reshape(len(times_T), -1), times_T, row["sample_rate_hz"]),
    )
