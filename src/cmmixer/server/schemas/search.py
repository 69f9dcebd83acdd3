"""Uploads and what was found.

What a search or a listing is asked with.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from cmmixer.server.schemas.base import Id, Kind, Moment, Seconds, Sense, Text, Value
from cmmixer.server.schemas.library import ITEM_EXAMPLE, Item

QUERY_EXAMPLE: JsonDict = {
    "id": "0a1b2c3d4e5f60718293a4b5",
    "name": "rough cut.mp4",
    "duration_seconds": 10.0,
    "has_picture": True,
    "has_sound": False,
    "moments": 4,
}


class Query(Value):
    """An uploaded file to search with."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [QUERY_EXAMPLE]})
    id: str
    name: str
    duration_seconds: float
    has_picture: bool
    has_sound: bool = Field(description="whether it has sound that is not silent")
    moments: int


class Hit(Value):
    """A moment of the library that goes with a moment of the query."""

    rank: int = Field(description="from 1")
    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the moment of the query that it goes with")
    score: float = Field(
        description="cosine similarity, at most 1; where hits were ordered by what happens when, the best ones' sequence score, at most 3"
    )
    media: str = Field(description="address of the file, or of the file of its sound")


class Stretch(Value):
    """A stretch of the query and the stretch of a file of the library that goes with it best."""

    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the stretch of the query; stretches do not overlap")
    score: float = Field(description="mean cosine similarity over the moments of the stretch")
    media: str = Field(description="address of the file, or of the file of its sound")


class SearchPage(Value):
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
                            "media": "/api/v1/items/5f0c1d9a7be24c6d8e9f0a1b/media?sense=audio",
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
    target: Sense = Field(alias="for")
    by: Sense
    rerank: Literal["sequence", "none"] = Field(
        description="how hits were ordered; a query of very many moments is left as the clip vectors say unless asked otherwise"
    )
    hits: list[Hit]
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null: there is none")
    moments_searched: int
    took_seconds: float
    timeline: list[Stretch] | None = Field(None, description="by the query's time; null: not asked for")


Order = Literal["name", "folder", "label", "duration", "moments", "-name", "-folder", "-label", "-duration", "-moments"]


class Filters(Value):
    """Which files of the library count. All that are given must hold; several labels mean any of them."""

    model_config = ConfigDict(extra="forbid")
    folder: Id | None = Field(None, description="only this source folder and those below it, by its id")
    kind: Kind | None = Field(None, description="only films, or only sounds, by the file's ending")
    label: list[Text] = Field([], max_length=50, description="only files with one of these labels")
    min_seconds: Seconds | None = Field(None, description="only files at least this long")
    max_seconds: Seconds | None = Field(None, description="only files at most this long")
    text: Text | None = Field(
        None, description="only files whose name, label or source holds this text; case is ignored"
    )
    where: list[Annotated[str, StringConstraints(max_length=400, pattern=r"^[^:\x00][^\x00]*:[^\x00]*$")]] = Field(
        [],
        max_length=20,
        description="`column:value`; only files whose column has this value: a column of the index, or any other of "
        "the manifest that the file came from; what is no text as JSON writes it, of a list one of its values, "
        "nothing for files without one",
        examples=[["source:harbour/gulls", "camera:B"]],
    )


class SearchQuery(Filters):
    """What to search with, what for, and where."""

    query: Id | None = Field(None, description="search with this uploaded file")
    item: Id | None = Field(None, description="search with this file of the library")
    start_seconds: Seconds | None = Field(
        None, description="search with one moment only: the one that begins nearest to this second"
    )
    target: Sense | None = Field(
        None, alias="for", description="what to find; default: the sense that the query lacks, or audio"
    )
    by: Sense | None = Field(
        None, description="what of the query to find it by; default: the other sense, or film for film"
    )
    rerank: Literal["sequence", "none"] | None = Field(
        None,
        description="`sequence` orders the best moments anew by what happens when, `none` leaves them as the clip vectors say; "
        "default: sequence where pictures look for sound or sound for pictures",
    )
    timeline: bool = Field(False, description="also tell which stretch of the query goes with what, in its order")
    limit: int = Field(24, ge=1, le=200, description="hits of a page")
    offset: int = Field(0, ge=0, le=2000, description="hits to pass over")


class ListQuery(Filters):
    """Which files to list, in which order."""

    sort: Order = Field("name", description="order of the files; `-` turns it round")
    limit: int = Field(50, ge=1, le=500, description="files of a page")
    offset: int = Field(0, ge=0, le=10_000_000, description="files to pass over")
