"""A Lance table that grows: rows are written from any process or machine, and made visible by one commit."""

from __future__ import annotations

import json
from datetime import timedelta

import lance
import pyarrow as pa
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments

from cmmixer.storage.folder import Folder, WriteLock, explain_server_errors


def write_uncommitted(folder: Folder, name: str, rows: pa.Table) -> list[str]:
    """Writes rows to a table's files without adding them to the table; `GrowingTable.commit` does that.

    Returns:
        Lance's description of each file, as JSON.
    """
    if not rows.num_rows:
        return []
    options = folder.storage_options
    with explain_server_errors(folder):
        fragments = write_fragments(
            rows, folder.child(name), schema=rows.schema, mode="append", storage_options=options
        )
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def read_uncommitted(folder: Folder, name: str, fragments: list[str]) -> pa.Table:
    """Reads back the rows that `write_uncommitted` wrote."""
    tables = []
    for fragment in fragments:
        for file in json.loads(fragment)["files"]:
            path = f"{folder.child(name)}/data/{file['path']}"
            with explain_server_errors(folder):
                tables.append(LanceFileReader(path, storage_options=folder.storage_options).read_all().to_table())
    return pa.concat_tables(tables)


class GrowingTable:
    """A Lance table and its only writer. Creates the table if there is none.

    Args:
        folder: the folder that the table is in.
        name: name of the table.
        schema: its columns.
        lock: the right to write to the folder.
        file_version: version of Lance's file format; Lance's default if None.
    """

    def __init__(
        self, folder: Folder, name: str, schema: pa.Schema, lock: WriteLock, file_version: str | None = None
    ) -> None:
        self._folder, self._name, self._lock, self._file_version = folder, name, lock, file_version
        if not folder.has_folder(f"{name}/_versions"):
            folder.remove(name)
            self._write(schema.empty_table(), "create")

    def open(self) -> lance.LanceDataset:
        """Returns the table's newest version."""
        with explain_server_errors(self._folder):
            return lance.dataset(self._folder.child(self._name), storage_options=self._folder.storage_options)

    def append(self, rows: pa.Table) -> None:
        """Writes rows and makes them visible in one atomic step."""
        self._lock.check()
        self._write(rows, "append")

    def commit(self, fragments: list[str]) -> None:
        """Makes the rows of `write_uncommitted` visible in one atomic step."""
        if not fragments:
            return
        self._lock.check()
        with explain_server_errors(self._folder):
            lance.LanceDataset.commit(
                self._folder.child(self._name),
                lance.LanceOperation.Append([FragmentMetadata.from_json(fragment) for fragment in fragments]),
                read_version=self.open().version,
                storage_options=self._folder.storage_options,
            )

    def tidy(self) -> None:
        """Removes old versions of the table, and files that killed writers left."""
        self._lock.check()
        with explain_server_errors(self._folder):
            self.open().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def _write(self, rows: pa.Table, mode: str) -> None:
        options = self._folder.storage_options
        with explain_server_errors(self._folder):
            lance.write_dataset(
                rows,
                self._folder.child(self._name),
                mode=mode,
                storage_options=options,
                data_storage_version=self._file_version,
            )
