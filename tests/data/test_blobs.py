"""Blobs are read from where Lance says they lie; a file that ends early is an error, not a short value."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from cmmixer.data.blobs import BlobColumn

SCHEMA = pa.schema(
    [
        ("id", pa.int32()),
        pa.field("value", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
    ]
)


def payload(number: int) -> bytes:
    return bytes([number]) * (3 + 5 * number)


@pytest.fixture(scope="module")
def column(tmp_path_factory: pytest.TempPathFactory) -> BlobColumn:
    """Twelve blobs in three fragments."""
    folder = str(tmp_path_factory.mktemp("table") / "t.lance")
    for first in (0, 5, 9):
        numbers = range(first, {0: 5, 5: 9, 9: 12}[first])
        rows = pa.table({"id": list(numbers), "value": [payload(number) for number in numbers]}, schema=SCHEMA)
        lance.write_dataset(rows, folder, mode="append" if first else "create", data_storage_version="2.1")
    table = lance.dataset(folder)
    rows = table.to_table(columns=["value"], with_row_address=True, scan_in_order=True)
    return BlobColumn.locate(table, folder, rows, "value")


def test_values_are_found_in_every_fragment(column: BlobColumn) -> None:
    assert len(column.files) == 3
    assert column.file_C.tolist() == [0] * 5 + [1] * 4 + [2] * 3
    assert column.size_C.tolist() == [len(payload(number)) for number in range(12)]
    rows = [11, 0, 4, 5, 8, 9, 0]
    assert column.read(rows) == [payload(number) for number in rows]
    assert column.read([]) == []


def test_values_are_those_of_lance_s_own_reader(column: BlobColumn) -> None:
    table = lance.dataset(column.files[0].rpartition("/data/")[0])
    blobs = table.read_blobs("value", indices=list(range(12)), preserve_order=True)
    assert column.read(range(12)) == [value for _, value in blobs]


def test_values_are_read_into_arrays_of_any_shape(column: BlobColumn) -> None:
    array = np.zeros((2, 4), np.int16)  # row 1 has 8 bytes: half the array would be left
    with pytest.raises(ValueError, match=r"\.lance: got 8 bytes, expected 16"):
        column.read_into([1], [array])
    buffers = [np.zeros((2, 2), np.int16), np.zeros((13,), np.uint8)]
    column.read_into([1, 2], buffers)
    assert buffers[0].tolist() == [[257, 257], [257, 257]]
    assert buffers[1].tolist() == [2] * 13


def test_a_file_that_ends_early_is_an_error_with_the_position(column: BlobColumn, tmp_path: Path) -> None:
    file = tmp_path / "cut.lance"
    end = int(column.position_C[3]) + 7
    file.write_bytes(Path(column.files[0]).read_bytes()[:end])
    cut = BlobColumn([str(file)], column.file_C, column.position_C, column.size_C)
    assert cut.read([0, 1]) == [payload(0), payload(1)]
    with pytest.raises(ValueError, match=rf"^cut\.lance: ends early, at byte {end}$"):
        cut.read([3])


def test_a_missing_file_is_the_system_s_error(column: BlobColumn, tmp_path: Path) -> None:
    gone = BlobColumn([str(tmp_path / "gone.lance")], column.file_C, column.position_C, column.size_C)
    with pytest.raises(FileNotFoundError):
        gone.read([0])


def test_buffers_and_rows_must_be_as_many(column: BlobColumn) -> None:
    with pytest.raises(ValueError, match="shorter"):
        column.read_into([0, 1], [bytearray(3)])
