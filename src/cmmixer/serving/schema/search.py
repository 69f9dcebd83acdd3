"""Uploads and what was found."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from cmmixer.serving.schema.base import Moment, Sense, Value
from cmmixer.serving.schema.library import ITEM_EXAMPLE, Item

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
