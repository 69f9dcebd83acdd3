"""Growing tables: rows written aside become visible by a commit, and only the holder of the lock may commit."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from cmmixer.errors import StoreError
from cmmixer.storage.folder import LocalFolder
from cmmixer.storage.lance_table import GrowingTable, read_uncommitted, write_uncommitted

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("size", pa.int32())])


class Lock:
    """A lock that can be lost."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise StoreError("busy; this process lost its right to write")


def _rows(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids), "size": [len(name) for name in ids]}, schema=SCHEMA)


def _ids(table: GrowingTable) -> list[str]:
    return sorted(table.open().to_table()["id"].to_pylist())


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


@pytest.fixture
def lock() -> Lock:
    return Lock()


@pytest.fixture
def table(folder: LocalFolder, lock: Lock) -> GrowingTable:
    return GrowingTable(folder, "clips.lance", SCHEMA, lock)


def test_a_new_table_is_empty_and_has_its_columns(table: GrowingTable) -> None:
    assert table.open().count_rows() == 0
    assert table.open().schema.equals(SCHEMA)


def test_rows_are_appended(folder: LocalFolder, lock: Lock, table: GrowingTable) -> None:
    table.append(_rows("a", "bb"))
    table.append(_rows("ccc"))
    assert _ids(table) == ["a", "bb", "ccc"]
    assert _ids(GrowingTable(folder, "clips.lance", SCHEMA, lock)) == ["a", "bb", "ccc"]


def test_uncommitted_rows_are_invisible_until_the_commit(folder: LocalFolder, table: GrowingTable) -> None:
    table.append(_rows("a"))
    first = write_uncommitted(folder, "clips.lance", _rows("bb", "ccc"))
    second = write_uncommitted(folder, "clips.lance", _rows("dddd"))
    assert _ids(table) == ["a"]
    assert read_uncommitted(folder, "clips.lance", first + second)["id"].to_pylist() == ["bb", "ccc", "dddd"]
    before = table.open().version
    table.commit(first + second)
    assert _ids(table) == ["a", "bb", "ccc", "dddd"]
    assert table.open().version == before + 1


def test_no_rows_write_nothing_and_commit_nothing(folder: LocalFolder, table: GrowingTable) -> None:
    before = table.open().version
    assert write_uncommitted(folder, "clips.lance", _rows()) == []
    table.commit([])
    assert table.open().version == before


def test_fragments_are_json_that_names_their_files(folder: LocalFolder, table: GrowingTable) -> None:
    (fragment,) = write_uncommitted(folder, "clips.lance", _rows("a", "b"))
    described = json.loads(fragment)
    assert described["physical_rows"] == 2
    (file,) = described["files"]
    assert (folder.path / "clips.lance" / "data" / file["path"]).is_file()


def test_a_lost_lock_stops_every_write(folder: LocalFolder, lock: Lock, table: GrowingTable) -> None:
    fragments = write_uncommitted(folder, "clips.lance", _rows("a"))
    lock.lost = True
    for write in (lambda: table.append(_rows("b")), lambda: table.commit(fragments), table.tidy):
        with pytest.raises(StoreError, match="lost its right to write"):
            write()
    assert table.open().count_rows() == 0


def test_tidying_removes_old_versions_and_files_of_killed_writers(folder: LocalFolder, table: GrowingTable) -> None:
    for name in ("a", "b", "c"):
        table.append(_rows(name))
    write_uncommitted(folder, "clips.lance", _rows("lost"))
    data = folder.path / "clips.lance" / "data"
    assert len(list(data.iterdir())) == 4
    table.tidy()
    assert len(list(data.iterdir())) == 3
    assert len(table.open().versions()) == 1
    assert _ids(table) == ["a", "b", "c"]


def test_a_table_whose_making_was_killed_is_made_again(folder: LocalFolder, lock: Lock) -> None:
    (folder.path / "clips.lance" / "data").mkdir(parents=True)
    (folder.path / "clips.lance" / "data" / "half.lance").write_bytes(b"x")
    assert GrowingTable(folder, "clips.lance", SCHEMA, lock).open().count_rows() == 0
    assert not (folder.path / "clips.lance" / "data" / "half.lance").exists()


def test_the_file_version_is_kept(folder: LocalFolder, lock: Lock) -> None:
    table = GrowingTable(folder, "old.lance", SCHEMA, lock, "2.0")
    table.append(_rows("a"))
    assert lance.dataset(folder.child("old.lance")).data_storage_version == "2.0"
