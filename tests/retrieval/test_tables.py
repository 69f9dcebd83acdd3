"""Tables of an index: errors as one line, the writer's lock, checks on opening, and nearest rows against plain loops."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from cmmixer.config import SegmentSettings
from cmmixer.errors import SearchIndexError
from cmmixer.retrieval.schema import FILES_SCHEMA, METADATA, moments_schema
from cmmixer.retrieval.tables import (
    WRITING,
    index_errors,
    lock_index,
    metadata_for_writing,
    nearest_rows,
    one_line,
    readable_dataset,
    writable_tables,
)
from tests.support import vector_library as vectors
from tests.support.coloured_videos import ColourEncoder


def _raise(error: BaseException) -> None:
    with index_errors(Path("library")):
        raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("lance error:\n  bad   page"),
            "library: is damaged (lance error: bad page); make an index in a new folder",
        ),
        (pa.ArrowInvalid("no column"), "library: is damaged (no column); make an index in a new folder"),
        (
            OSError("LanceError(IO): truncated"),
            "library: is damaged (LanceError(IO): truncated); make an index in a new folder",
        ),
    ],
)
def test_errors_of_lance_are_one_line(error: BaseException, message: str) -> None:
    with pytest.raises(SearchIndexError) as refused:
        _raise(error)
    assert str(refused.value) == message
    assert refused.value.__cause__ is error


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (
            lambda code: RuntimeError(f"LanceError(IO): No space left on device (os error {code}), writer.rs:258:9"),
            errno.ENOSPC,
        ),
        (lambda code: OSError(f"LanceError(IO): quota (os error {code})"), errno.EDQUOT),
        (lambda code: OSError(code, os.strerror(code)), errno.ENOSPC),
    ],
)
def test_a_full_disk_is_recognized_in_any_error(make: Callable[[int], BaseException], code: int) -> None:
    with pytest.raises(SearchIndexError, match=r"library: .*free some space and run the same command again"):
        _raise(make(code))


def test_missing_permission_is_not_called_damage() -> None:
    with pytest.raises(SearchIndexError) as refused:
        _raise(RuntimeError(f"LanceError(IO): denied (os error {errno.EACCES})"))
    assert "damaged" not in str(refused.value)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        _raise(ZeroDivisionError())
    with pytest.raises(SearchIndexError, match=r"^mine$"):
        _raise(SearchIndexError("mine"))


def test_advice_about_damage_can_be_given() -> None:
    with (
        pytest.raises(SearchIndexError, match=r"is damaged \(x\); search with --exact"),
        index_errors(Path("library"), "search with --exact"),
    ):
        raise RuntimeError("x")


def test_one_line_is_short() -> None:
    assert one_line(ValueError("a\n\n b\tc")) == "a b c"
    assert len(one_line(ValueError("x" * 500))) == 160


def test_lock_lets_in_one_writer_and_remembers_an_interruption(tmp_path: Path) -> None:
    with lock_index(tmp_path) as interrupted:
        assert interrupted is False
        assert (tmp_path / WRITING).read_bytes().startswith(b"a process is writing")
        with pytest.raises(SearchIndexError) as refused, lock_index(tmp_path):
            pass
        assert str(refused.value) == f"{tmp_path}: another process is writing to this index; wait until it is done"
    assert (tmp_path / WRITING).read_bytes() == b""
    with pytest.raises(KeyboardInterrupt), lock_index(tmp_path):
        raise KeyboardInterrupt
    with lock_index(tmp_path) as interrupted:
        assert interrupted is True
    with lock_index(tmp_path) as interrupted:
        assert interrupted is False


def test_tables_are_created_and_opened_again(tmp_path: Path) -> None:
    schemas = {"files": FILES_SCHEMA, "moments": moments_schema(4, 2)}
    first = writable_tables(tmp_path, schemas)
    first[0].add(pa.Table.from_pylist([vars(vectors.file_row(1))], schema=FILES_SCHEMA))
    files, moments = writable_tables(tmp_path, schemas)
    assert (files.count_rows(), moments.count_rows()) == (1, 0)
    assert readable_dataset(tmp_path, "files", FILES_SCHEMA).count_rows() == 1


def test_tables_with_other_columns_or_damage_are_refused(tmp_path: Path) -> None:
    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "moments.lance"))
    with pytest.raises(SearchIndexError) as refused:
        readable_dataset(tmp_path, "moments", moments_schema(4, 2))
    assert (
        str(refused.value)
        == f"{tmp_path}: moments.lance has other columns than expected; make an index in a new folder"
    )
    (tmp_path / "files.lance").mkdir()
    with pytest.raises(SearchIndexError, match=r"files\.lance is damaged \(.*\); make an index in a new folder"):
        readable_dataset(tmp_path, "files", FILES_SCHEMA)


def test_metadata_of_a_new_index_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "library"
    metadata = metadata_for_writing(folder, ColourEncoder(), SegmentSettings(stride_seconds=0.25))
    assert metadata.segmentation.stride_seconds == 0.25
    assert (folder / METADATA).read_text() == metadata.to_text()
    assert metadata_for_writing(folder, None, SegmentSettings()) == metadata
    assert metadata_for_writing(folder, ColourEncoder(), SegmentSettings()) == metadata


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            SegmentSettings(stride_seconds=0.25),
            "its moments start every 0.5 s, got --stride_seconds 0.25; leave it out",
        ),
        (SegmentSettings(moment_seconds=2.0), "its moments last 1 s, got --moment_seconds 2; leave it out"),
        (SegmentSettings(shots=True), "its moments do not keep to shots, got --shots; leave it out"),
    ],
)
def test_another_segmentation_is_refused(tmp_path: Path, wanted: SegmentSettings, message: str) -> None:
    folder = tmp_path / "library"
    metadata_for_writing(folder, ColourEncoder(), SegmentSettings())
    with pytest.raises(SearchIndexError) as refused:
        metadata_for_writing(folder, ColourEncoder(), wanted)
    assert str(refused.value) == f"{folder}: {message}, or make an index in a new folder"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("x")
    with pytest.raises(SearchIndexError) as refused:
        metadata_for_writing(tmp_path / "library", ColourEncoder(), SegmentSettings())
    assert str(refused.value) == f"{tmp_path}/library: got a file, expected the folder of an index"


def _moments(folder: Path, vectors_NE: np.ndarray) -> Any:
    rows = [vectors.moment(place, vector, ("audio",)) for place, vector in enumerate(vectors_NE)]
    return lance.write_dataset(
        pa.Table.from_pylist(rows, schema=moments_schema(vectors.DIM, 2)), str(folder / "m.lance")
    )


def test_nearest_rows_equal_plain_loops(tmp_path: Path) -> None:
    vectors_NE, queries_QE = vectors.random_vectors(60, 3)
    dataset = _moments(tmp_path, vectors_NE)
    table = nearest_rows(dataset, queries_QE, "audio", 7, ["id"], None)
    assert table.column_names == ["id", "_distance", "query_index"]
    rows = table.to_pylist()
    assert [row["query_index"] for row in rows] == [0] * 7 + [1] * 7 + [2] * 7
    for number, query_E in enumerate(queries_QE):
        own = [row for row in rows if row["query_index"] == number]
        expected = vectors.slow_nearest(vectors_NE, query_E, 7)
        assert [int(row["id"]) for row in own] == expected
        cosines = [float(vectors_NE[place] @ query_E) for place in expected]
        assert [1 - row["_distance"] for row in own] == pytest.approx(cosines, abs=1e-5)


def test_rows_can_be_filtered_before_the_search(tmp_path: Path) -> None:
    vectors_NE, queries_QE = vectors.random_vectors(60, 1)
    dataset = _moments(tmp_path, vectors_NE)
    rows = nearest_rows(
        dataset, queries_QE, "audio", 5, ["id"], None, only="batch IN ('b3', 'b7')", row_ids=True
    ).to_pylist()
    assert {row["id"] for row in rows} == {"3", "7"}
    assert {row["_rowid"] for row in rows} == {3, 7}


def test_missing_vectors_are_passed_over(tmp_path: Path) -> None:
    vectors_NE, queries_QE = vectors.random_vectors(5, 2)
    dataset = _moments(tmp_path, vectors_NE)
    assert nearest_rows(dataset, queries_QE, "video", 5, ["id"], None).num_rows == 0
    assert nearest_rows(dataset, queries_QE, "any", 5, ["id"], None).num_rows == 10
