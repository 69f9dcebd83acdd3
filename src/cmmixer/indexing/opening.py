"""Opening the tables of an index, and its card: what is there is checked, what is not is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from cmmixer.atomic import write_atomically
from cmmixer.config import CuttingSettings
from cmmixer.embedding import Encoder
from cmmixer.errors import SearchIndexError
from cmmixer.indexing.card import NAME, IndexCard, read_card
from cmmixer.indexing.guard import short
from cmmixer.indexing.rows import FILES_SCHEMA, FILES_SCHEMA_BEFORE
from cmmixer.version import __version__


def add_extra(folder: Path) -> None:
    """Gives an index of before the column `extra`, empty; one commit, so a kill leaves the table as before or as after."""
    try:
        files = lance.dataset(str(folder / "files.lance"))
    except (ValueError, KeyError):
        return  # not there yet, or damaged, which opening the tables tells
    if files.schema == FILES_SCHEMA_BEFORE:
        files.add_columns(FILES_SCHEMA.field("extra"))


def writable_tables(folder: Path, schemas: dict[str, pa.Schema]) -> list[Any]:
    """The tables for writing; made where they are not there. LanceDB takes a second to import, and searching needs none of it."""
    import lancedb

    database = lancedb.connect(folder)
    tables = []
    for name, schema in schemas.items():
        try:
            tables.append(database.create_table(name, schema=schema, exist_ok=True))
        except (ValueError, KeyError) as fault:
            raise SearchIndexError(
                f"{folder}: {name}.lance is damaged ({short(fault)}); make an index in a new folder"
            ) from fault
    return tables


def readable_dataset(folder: Path, name: str, schema: pa.Schema) -> Any:
    """A table as a Lance data set to read.

    Raises:
        SearchIndexError: it is damaged, or has other columns.
    """
    try:
        dataset = lance.dataset(str(folder / f"{name}.lance"))
    except (ValueError, KeyError) as fault:
        raise SearchIndexError(
            f"{folder}: {name}.lance is damaged ({short(fault)}); make an index in a new folder"
        ) from fault
    if dataset.schema not in ([FILES_SCHEMA, FILES_SCHEMA_BEFORE] if name == "files" else [schema]):
        raise SearchIndexError(f"{folder}: {name}.lance has other columns than expected; make an index in a new folder")
    return dataset


def card_for_writing(folder: Path, encoder: Encoder | None, cutting: CuttingSettings) -> IndexCard:
    """The card that is there, checked, or that of a new index."""
    if encoder is None:
        return read_card(folder)
    if folder.is_dir() and any(folder.iterdir()):
        card = read_card(folder)
        card.check_encoder(encoder, folder)
        _refuse_other_cutting(folder, card, cutting)
        return card
    if folder.exists() and not folder.is_dir():
        raise SearchIndexError(f"{folder}: got a file, expected the folder of an index")
    known = cutting.of(encoder.clip)
    assert known.stride_seconds is not None
    card = IndexCard(
        model_id=encoder.id,
        model=encoder.path,
        embed_dim=encoder.dim,
        clip=encoder.clip,
        stride_seconds=known.stride_seconds,
        moment_seconds=known.moment_seconds,
        shots=known.shots,
        version=__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, card.text())
    return card


def _refuse_other_cutting(folder: Path, card: IndexCard, asked: CuttingSettings) -> None:
    """Moments of one index are cut alike.

    Raises:
        SearchIndexError: says what differs.
    """
    there = card.cutting.of(card.clip)
    for name, words in (("stride_seconds", "start every"), ("moment_seconds", "last")):
        got, own = getattr(asked, name), getattr(there, name)
        if got is not None and got != own:
            raise SearchIndexError(
                f"{folder}: its moments {words} {own:g} s, got --{name} {got:g}; leave it out, or make an index in a new folder"
            )
    if asked.shots and not there.shots:
        raise SearchIndexError(
            f"{folder}: its moments do not keep to shots, got --shots; leave it out, or make an index in a new folder"
        )
