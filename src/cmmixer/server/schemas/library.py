"""Files of the library, their folders, what they can be filtered by, their previews.

Folders that are indexed in the background.

Taking finds along: films with another sound, cut lists.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from cmmixer.server.schemas.base import Id, Kind, Moment, Seconds, Sense, Text, Value

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


State = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]


class JobOrder(Value):
    """Which folder to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"folder": "9d2f4b6a8c0e1f3a5b7c9d1e"}]})
    folder: Id = Field(description="id of a folder of GET /folders")
    remove_gone: bool = Field(False, description="also take files out that are gone from the folder")


class Skipped(Value):
    """A file that was left out, and why."""

    name: str
    reason: str
    message: str


class JobReport(Value):
    """What indexing did."""

    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int = Field(description="moments in the whole index")


class Job(Value):
    """Indexing of a folder, in the background."""

    id: str
    folder: str
    folder_name: str
    state: State
    phase: str = Field(description="what is going on")
    done: int
    total: int | None = Field(description="null: not known yet")
    seconds: float = Field(description="since it began")
    seconds_left: float | None
    report: JobReport | None
    skipped: list[Skipped] = Field(description="files of the folder that were left out, the first thousand")
    skipped_total: int
    problem: str | None = Field(description="why it failed")


class JobList(Value):
    """Jobs since the service started, the newest first."""

    jobs: list[Job]


class Source(Value):
    """A file: an upload or one of the library; one of the two is given."""

    model_config = ConfigDict(extra="forbid")
    query: Id | None = Field(None, description="an uploaded file")
    item: Id | None = Field(None, description="a file of the library")


class DubOrder(Value):
    """A film to be written with another sound."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "film": {"query": "0a1b2c3d4e5f60718293a4b5"},
                    "sound": {"item": "5f0c1d9a7be24c6d8e9f0a1b"},
                    "start_seconds": 4.0,
                    "at_seconds": 0.0,
                }
            ]
        },
    )
    film: Source
    sound: Source
    start_seconds: Seconds = Field(0.0, description="second of the sound that is laid at `at_seconds`")
    at_seconds: Seconds = Field(0.0, description="second of the film where the sound begins")
    loudness_lufs: float = Field(-23.0, ge=-60.0, le=-5.0, description="integrated loudness; -23 is EBU R128")
    duck: bool = Field(False, description="keep the film's own sound; the new one gives way while it is heard")
    container: Literal["mp4", "mkv", "mov"] = "mp4"


class Dub(Value):
    """A film that was written with another sound."""

    id: str
    name: str
    media: str = Field(description="address of the film")
    film_seconds: float
    begins_seconds: float = Field(description="where in the film the new sound begins")
    ends_seconds: float
    gain_db: float
    loudness_lufs: float | None = Field(description="measured on the film; null: too short or too quiet to have one")
    true_peak_dbtp: float | None
    limited: bool
    picture_codec: str
    sound_codec: str


class CutMoment(Value):
    """A moment that was chosen."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    start_seconds: Seconds
    end_seconds: Seconds
    score: float = Field(0.0, allow_inf_nan=False)
    query_start_seconds: Seconds = 0.0
    query_end_seconds: Seconds = 0.0


class CutListOrder(Value):
    """Chosen moments for an editing program, in the order they are laid."""

    model_config = ConfigDict(extra="forbid")
    moments: list[CutMoment] = Field(min_length=1, max_length=999)
    target: Sense = Field("audio", description="what they are: their sound, their picture, or both")
    frames_per_second: float = Field(25.0, ge=1.0, le=240.0)
    title: Text = "CMMixer"
    query: Text = Field("", description="name of what was searched with")
    format: Literal["edl", "csv"] = "edl"
