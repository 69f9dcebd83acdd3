"""Blob columns of a Lance table: where each value lies in the table's files, and reading values from there.

Lance stores the values of such columns apart from the rows and tells at which byte of which file each one begins. On a disk
they are read from there straight into the array that wants them. Lance's own reader would take a third as long for a clip's
audio alone as its frames take to decode (docs/lab-notebook.md, 2026-11-26).

Letters: B requested values, C rows of the table.
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

# A row's address: the number of its fragment in the upper half, its index in the fragment in the lower half.
_FRAGMENT_BITS = np.uint64(32)


@dataclass(frozen=True)
class BlobColumn:
    """Where the values of one blob column lie.

    Attributes:
        files: full names of the files.
        file_C: index of the file that holds each row's value.
        position_C, size_C: where each value lies in its file, in bytes.
    """

    files: list[str]
    file_C: NDArray[np.int64]
    position_C: NDArray[np.int64]
    size_C: NDArray[np.int64]

    @classmethod
    def locate(cls, table: lance.LanceDataset, table_folder: str, rows: pa.Table, column: str) -> BlobColumn:
        """Finds the values of a column.

        Args:
            table: the table.
            table_folder: its folder.
            rows: all rows of the table in order, with the column as Lance describes it, and `_rowaddr`.
            column: name of the column.
        """
        fragments = [(fragment.fragment_id, fragment.data_files()[0].path) for fragment in table.get_fragments()]
        numbers = np.array([number for number, _ in fragments], np.int64)
        fragment_C = (rows["_rowaddr"].to_numpy() >> _FRAGMENT_BITS).astype(np.int64)
        blobs = rows[column].combine_chunks()
        position_C, size_C = (blobs.field(name).to_numpy().astype(np.int64) for name in ("position", "size"))
        files = [f"{table_folder}/data/{path}" for _, path in fragments]
        return cls(files, np.searchsorted(numbers, fragment_C), position_C, size_C)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Reads values by row, from files on a disk.

        Raises:
            OSError: a file is missing.
            ValueError: a file ends early.
        """
        values = [bytearray(int(self.size_C[index])) for index in indices]
        self.read_into(indices, values)
        return [bytes(value) for value in values]

    def read_into(self, indices: Sequence[int], buffers: Sequence[NDArray[Any] | bytearray]) -> None:
        """Reads values by row into given buffers, from files on a disk.

        Args:
            indices: B rows.
            buffers: B contiguous arrays to fill.

        Raises:
            OSError: a file is missing.
            ValueError: a file ends early, or a value has another length than its buffer.
        """
        for index, buffer in zip(indices, buffers, strict=True):
            path = self.files[self.file_C[index]]
            view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # NumPy does not declare its buffer
            if self.size_C[index] != len(view):
                raise ValueError(f"{Path(path).name}: got {self.size_C[index]} bytes, expected {len(view)}")
            file = os.open(path, os.O_RDONLY)
            try:
                _fill(file, view, int(self.position_C[index]), path)
            finally:
                os.close(file)


def _fill(file: int, view: memoryview, position: int, path: str) -> None:
    while view:
        count = os.preadv(file, [view], position)
        if not count:
            raise ValueError(f"{Path(path).name}: ends early, at byte {position}")
        view, position = view[count:], position + count
