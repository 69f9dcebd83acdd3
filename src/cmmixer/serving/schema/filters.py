"""What a search or a listing is asked with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from cmmixer.serving.schema.base import Id, Kind, Seconds, Sense, Text, Value

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
