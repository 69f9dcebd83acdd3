"""Files of the library, their folders, what they can be filtered by, their previews."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from cmmixer.serving.schema.base import Kind, Moment, Value

ITEM_EXAMPLE: JsonDict = {
    "id": "5f0c1d9a7be24c6d8e9f0a1b",
    "name": "harbour/gulls.mp4",
    "title": "gulls",
    "folder": "9d2f4b6a8c0e1f3a5b7c9d1e",
    "folder_name": "films/harbour",
    "kind": "film",
    "label": "gull",
    "source": "harbour/gulls",
    "metadata": {"camera": "B", "licence": "CC0"},
    "duration_seconds": 9.6,
    "moments": 4,
    "missing": False,
}


class Item(Value):
    """A file of the library."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [ITEM_EXAMPLE]})
    id: str
    name: str = Field(description="path below the folder that was indexed")
    title: str = Field(description="the file's own name without its ending")
    folder: str = Field(description="id of its folder")
    folder_name: str
    kind: Kind
    label: str | None
    source: str
    metadata: dict[str, Any] = Field({}, description="the manifest's other columns")
    duration_seconds: float
    moments: int
    missing: bool = Field(description="whether the file has gone from where it was indexed")


class ItemDetail(Item):
    """A file of the library with its moments and every column that the index has of it."""

    has_picture: bool
    has_sound: bool = Field(description="whether it has sound that is not silent")
    spans: list[Moment]
    columns: dict[str, Any]


class ItemPage(Value):
    """Some files of the library."""

    items: list[Item]
    total: int = Field(description="files that the filters leave")
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null: there is none")


class Folder(Value):
    """A source folder of the library, or one that may be indexed."""

    id: str
    name: str
    items: int = Field(description="files of the library in it and below it")


class FolderListing(Value):
    """The folders that may be indexed: the allowed ones, or those inside one of them."""

    parent: Folder | None
    folders: list[Folder]


class Facet(Value):
    """A value of a column, and how many files have it."""

    value: str
    items: int


class Column(Value):
    """A column of the manifests that the library was made from, with its most frequent values."""

    name: str
    values: list[Facet]


class Library(Value):
    """What the library holds, and what it can be filtered by."""

    items: int
    films: int
    sounds: int
    moments: int
    seconds: float = Field(description="length of all files together")
    longest_seconds: float
    clip_seconds: float = Field(description="length of a moment")
    stride_seconds: float = Field(description="a moment begins every so many seconds")
    model_id: str
    folders: list[Folder]
    labels: list[Facet]
    columns: list[str] = Field(description="columns that `where` takes")
    metadata: list[Column] = Field([], description="those of them that came with manifests, and what is in them")


class Peaks(Value):
    """The waveform of a stretch: lowest and highest sample of each of its equal parts, -127 to 127 of full scale."""

    start_seconds: float
    end_seconds: float
    low: list[int]
    high: list[int]


class Playback(Value):
    """What a browser can play of a file."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "media": "/api/v1/items/5f0c1d9a7be24c6d8e9f0a1b/version?sense=video&start_seconds=60",
                    "starts_seconds": 60.0,
                    "converted": True,
                }
            ]
        },
    )
    media: str = Field(description="address to play: of the file itself, or of a version of a stretch of it")
    starts_seconds: float = Field(description="second of the file that is second 0 there")
    converted: bool = Field(
        description="whether it is a version: smaller, and as long as could be made in a little while"
    )
