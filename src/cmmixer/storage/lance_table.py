"""A Lance table that grows: rows are written beside it, from wherever, and shown by one commit."""

from __future__ import annotations

import json
from datetime import timedelta

import lance
import pyarrow as pa
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments

from cmmixer.storage.folder import Folder, Held, server_told


def write_beside(folder: Folder, name: str, rows: pa.Table) -> list[str]:
    """Writes rows beside a table; they belong to no version of it until `GrowingTable.commit` takes them up.

    Returns:
        Lance's description of each file, as JSON.
    """
    if not rows.num_rows:
        return []
    options = folder.storage_options
    with server_told(folder):
        found = write_fragments(rows, folder.child(name), schema=rows.schema, mode="append", storage_options=options)
    return [json.dumps(one.to_json()) for one in found]


def read_beside(folder: Folder, name: str, fragments: list[str]) -> pa.Table:
    """What `write_beside` wrote."""
    tables = []
    for fragment in fragments:
        for file in json.loads(fragment)["files"]:
            path = f"{folder.child(name)}/data/{file['path']}"
            with server_told(folder):
                tables.append(LanceFileReader(path, storage_options=folder.storage_options).read_all().to_table())
    return pa.concat_tables(tables)


class GrowingTable:
    """The one writer of a table.

    Args:
        folder: where it lies.
        name: of its own folder in there.
        schema: its columns; it is made where it is not there.
        held: the right to write.
        file_version: of Lance's files in it; Lance's default where None.
    """

    def __init__(
        self, folder: Folder, name: str, schema: pa.Schema, held: Held, file_version: str | None = None
    ) -> None:
        self._folder, self._name, self._held, self._file_version = folder, name, held, file_version
        if not folder.has_below(f"{name}/_versions"):
            folder.remove(name)
            self._write(schema.empty_table(), "create")

    def open(self) -> lance.LanceDataset:
        """The table as it is now."""
        with server_told(self._folder):
            return lance.dataset(self._folder.child(self._name), storage_options=self._folder.storage_options)

    def append(self, rows: pa.Table) -> None:
        """Writes rows and shows them in one atomic step."""
        self._held.check()
        self._write(rows, "append")

    def commit(self, fragments: list[str]) -> None:
        """Shows what `write_beside` wrote, in one atomic step."""
        if not fragments:
            return
        self._held.check()
        with server_told(self._folder):
            lance.LanceDataset.commit(
                self._folder.child(self._name),
                lance.LanceOperation.Append([FragmentMetadata.from_json(one) for one in fragments]),
                read_version=self.open().version,
                storage_options=self._folder.storage_options,
            )

    def tidy(self) -> None:
        """Removes older versions of the table's list of files, and files that killed writers left."""
        self._held.check()
        with server_told(self._folder):
            self.open().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def _write(self, rows: pa.Table, mode: str) -> None:
        options = self._folder.storage_options
        with server_told(self._folder):
            lance.write_dataset(
                rows,
                self._folder.child(self._name),
                mode=mode,
                storage_options=options,
                data_storage_version=self._file_version,
            )
