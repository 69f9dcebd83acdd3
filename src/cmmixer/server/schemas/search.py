"""Uploads, filters, search requests and search results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from cmmixer.server.schemas.base import Id, Kind, Modality, Moment, Schema, Seconds, Text
from cmmixer.server.schemas.library import ITEM_EXAMPLE, Item

QUERY_EXAMPLE: JsonDict = {
    "id": "0a1b2c3d4e5f60718293a4b5",
    "name": "rough cut.mp4",
    "duration_seconds": 10.0,
    "has_video": True,
    "has_audio": False,
    "moments": 4,
}
SortOrder = Literal[
    "name", "folder", "label", "duration", "moments", "-name", "-folder", "-label", "-duration", "-moments"
]


class Query(Schema):
    """An uploaded file to search with."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [QUERY_EXAMPLE]})
    id: str
    name: str
    duration_seconds: float
    has_video: bool
    has_audio: bool = Field(description="whether it has audio that is not silent")
    moments: int


class Filters(Schema):
    """Which files of the library to consider. All given filters must hold; several labels mean any of them."""

    model_config = ConfigDict(extra="forbid")
    folder: Id | None = Field(None, description="only this source folder and its subfolders, by id")
    kind: Kind | None = Field(None, description="only video files, or only audio files, by their ending")
    label: list[Text] = Field([], max_length=50, description="only files with one of these labels")
    min_seconds: Seconds | None = Field(None, description="only files at least this long")
    max_seconds: Seconds | None = Field(None, description="only files at most this long")
    text: Text | None = Field(
        None, description="only files whose name, label or source contains this text, ignoring case"
    )
    where: list[Annotated[str, StringConstraints(max_length=400, pattern=r"^[^:\x00][^\x00]*:[^\x00]*$")]] = Field(
        [],
        max_length=20,
        description="`column:value`; only files with this value in this column, which is a column of the index or of "
        "the manifest that the file came from. A value that is not text is written as JSON; a list matches by any of "
        "its values; nothing after the colon matches files without a value",
        examples=[["source:harbour/gulls", "camera:B"]],
    )


class SearchRequest(Filters):
    """What to search with, what to search for, and in which files."""

    query: Id | None = Field(None, description="search with this uploaded file")
    item: Id | None = Field(None, description="search with this file of the library")
    start_seconds: Seconds | None = Field(
        None, description="search with a single moment: the one that begins nearest to this second"
    )
    target: Modality | None = Field(
        None, alias="for", description="what to find; default: the modality that the query lacks, or audio"
    )
    by: Modality | None = Field(
        None, description="modality of the query to compare; default: the other modality, or any for any"
    )
    rerank: Literal["sequence", "none"] | None = Field(
        None,
        description="`sequence` re-ranks the best moments by comparing them frame by frame, `none` keeps the order of "
        "the clip vectors; default: sequence where video searches for audio or audio for video",
    )
    timeline: bool = Field(False, description="also return which segment of the query matches what, in query order")
    limit: int = Field(24, ge=1, le=200, description="hits per page")
    offset: int = Field(0, ge=0, le=2000, description="hits to skip")


class ListRequest(Filters):
    """Which files to list, and in which order."""

    sort: SortOrder = Field("name", description="sort key; a leading `-` sorts in descending order")
    limit: int = Field(50, ge=1, le=500, description="files per page")
    offset: int = Field(0, ge=0, le=10_000_000, description="files to skip")


class Hit(Schema):
    """A moment of the library that matches a moment of the query."""

    rank: int = Field(description="from 1")
    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the moment of the query that it matches")
    score: float = Field(
        description="cosine similarity, at most 1; after re-ranking, the sequence score of the best hits, at most 3"
    )
    media: str = Field(description="address of the file, or of the separate file of its audio")


class TimelineSegment(Schema):
    """A segment of the query and the part of a library file that matches it best."""

    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the segment of the query; segments do not overlap")
    score: float = Field(description="mean cosine similarity over the moments of the segment")
    media: str = Field(description="address of the file, or of the separate file of its audio")


class SearchPage(Schema):
    """Hits, best first."""

    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {
                    "for": "audio",
                    "by": "video",
                    "rerank": "sequence",
                    "hits": [
                        {
                            "rank": 1,
                            "item": ITEM_EXAMPLE,
                            "moment": {"start_seconds": 4.0, "end_seconds": 8.0},
                            "query_moment": {"start_seconds": 0.0, "end_seconds": 4.0},
                            "score": 0.83,
                            "media": "/api/v1/items/5f0c1d9a7be24c6d8e9f0a1b/media?modality=audio",
                        }
                    ],
                    "offset": 0,
                    "next_offset": 24,
                    "moments_searched": 10000,
                    "took_seconds": 0.04,
                }
            ]
        },
    )
    target: Modality = Field(alias="for")
    by: Modality
    rerank: Literal["sequence", "none"] = Field(
        description="how hits were ordered; a query of very many moments is not re-ranked unless the request asks for it"
    )
    hits: list[Hit]
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null on the last page")
    moments_searched: int
    took_seconds: float
    timeline: list[TimelineSegment] | None = Field(None, description="in query order; null unless requested")
