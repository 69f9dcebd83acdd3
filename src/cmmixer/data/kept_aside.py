"""Where a store's pictures and sounds lie in its files, and reading them from there.

Lance keeps values of such columns aside ("blobs") and says at which byte of which file each one begins. On a disk they are read
from there straight to where they are wanted; through Lance's own reader a clip's sound alone takes a third as long as decoding
its pictures does (docs/lab-notebook.md, 2026-11-26).

Letters: B values asked for, C clips of the store.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
