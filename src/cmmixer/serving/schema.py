"""What travels over HTTP, for the service and its Python client alike. Times in seconds from a file's beginning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

Sense = Literal["audio", "video", "film"]
Kind = Literal["film", "sound"]
Order = Literal["name", "folder", "label", "duration", "moments", "-name", "-folder", "-label", "-duration", "-moments"]
State = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]
# No NUL in any text: nothing here has a use for it, and systems below treat it as an end.
Text = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00]*$")]
Id = Annotated[str, StringConstraints(min_length=24, max_length=24, pattern=r"^[0-9a-f]{24}$")]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]

_ITEM: JsonDict = {
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
_QUERY: JsonDict = {
    "id": "0a1b2c3d4e5f60718293a4b5",
    "name": "rough cut.mp4",
    "duration_seconds": 10.0,
    "has_picture": True,
    "has_sound": False,
    "moments": 4,
}


class _Value(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Problem(_Value):
    """What went wrong, as RFC 9457 describes it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/unusable-media",
                    "title": "This file cannot be used",
                    "status": 422,
                    "detail": "rough cut.mp4: has zero bytes",
                    "reason": "empty",
                }
            ]
        },
    )
    type: str = Field(description="which kind of problem; the address explains it")
    title: str
    status: int
    detail: str = Field(description="what was got, what was expected, what to do")


class Filters(_Value):
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
    timeline: bool = Field(False, description="also tell which stretch of the query goes with what, in its order")
    limit: int = Field(24, ge=1, le=200, description="hits of a page")
    offset: int = Field(0, ge=0, le=2000, description="hits to pass over")


class ListQuery(Filters):
    """Which files to list, in which order."""

    sort: Order = Field("name", description="order of the files; `-` turns it round")
    limit: int = Field(50, ge=1, le=500, description="files of a page")
    offset: int = Field(0, ge=0, le=10_000_000, description="files to pass over")


class Moment(_Value):
    """A stretch of a file."""

    start_seconds: float
    end_seconds: float


class Item(_Value):
    """A file of the library."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [_ITEM]})
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


class ItemPage(_Value):
    """Some files of the library."""

    items: list[Item]
    total: int = Field(description="files that the filters leave")
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null: there is none")


class Folder(_Value):
    """A source folder of the library, or one that may be indexed."""

    id: str
    name: str
    items: int = Field(description="files of the library in it and below it")


class FolderListing(_Value):
    """The folders that may be indexed: the allowed ones, or those inside one of them."""

    parent: Folder | None
    folders: list[Folder]


class Facet(_Value):
    """A value of a column, and how many files have it."""

    value: str
    items: int


class Column(_Value):
    """A column of the manifests that the library was made from, with its most frequent values."""

    name: str
    values: list[Facet]


class Library(_Value):
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


class Query(_Value):
    """An uploaded file to search with."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [_QUERY]})
    id: str
    name: str
    duration_seconds: float
    has_picture: bool
    has_sound: bool = Field(description="whether it has sound that is not silent")
    moments: int


class Hit(_Value):
    """A moment of the library that goes with a moment of the query."""

    rank: int = Field(description="from 1")
    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the moment of the query that it goes with")
    score: float = Field(description="cosine similarity, at most 1")
    media: str = Field(description="address of the file, or of the file of its sound")


class Stretch(_Value):
    """A stretch of the query and the stretch of a file of the library that goes with it best."""

    item: Item
    moment: Moment
    query_moment: Moment = Field(description="the stretch of the query; stretches do not overlap")
    score: float = Field(description="mean cosine similarity over the moments of the stretch")
    media: str = Field(description="address of the file, or of the file of its sound")


class SearchPage(_Value):
    """Hits, best first."""

    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {
                    "for": "audio",
                    "by": "video",
                    "hits": [
                        {
                            "rank": 1,
                            "item": _ITEM,
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
    hits: list[Hit]
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null: there is none")
    moments_searched: int
    took_seconds: float
    timeline: list[Stretch] | None = Field(None, description="by the query's time; null: not asked for")


class Playback(_Value):
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


class Peaks(_Value):
    """The waveform of a stretch: lowest and highest sample of each of its equal parts, -127 to 127 of full scale."""

    start_seconds: float
    end_seconds: float
    low: list[int]
    high: list[int]


class Source(_Value):
    """A file: an upload or one of the library; one of the two is given."""

    model_config = ConfigDict(extra="forbid")
    query: Id | None = Field(None, description="an uploaded file")
    item: Id | None = Field(None, description="a file of the library")


class DubOrder(_Value):
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


class Dub(_Value):
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


class CutMoment(_Value):
    """A moment that was chosen."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    start_seconds: Seconds
    end_seconds: Seconds
    score: float = Field(0.0, allow_inf_nan=False)
    query_start_seconds: Seconds = 0.0
    query_end_seconds: Seconds = 0.0


class CutListOrder(_Value):
    """Chosen moments for an editing program, in the order they are laid."""

    model_config = ConfigDict(extra="forbid")
    moments: list[CutMoment] = Field(min_length=1, max_length=999)
    target: Sense = Field("audio", description="what they are: their sound, their picture, or both")
    frames_per_second: float = Field(25.0, ge=1.0, le=240.0)
    title: Text = "CMMixer"
    query: Text = Field("", description="name of what was searched with")
    format: Literal["edl", "csv"] = "edl"


class JobOrder(_Value):
    """Which folder to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"folder": "9d2f4b6a8c0e1f3a5b7c9d1e"}]})
    folder: Id = Field(description="id of a folder of GET /folders")
    remove_gone: bool = Field(False, description="also take files out that are gone from the folder")


class Skipped(_Value):
    """A file that was left out, and why."""

    name: str
    reason: str
    message: str


class JobReport(_Value):
    """What indexing did."""

    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int = Field(description="moments in the whole index")


class Job(_Value):
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


class JobList(_Value):
    """Jobs since the service started, the newest first."""

    jobs: list[Job]


class Health(_Value):
    """Whether the service lives, and whether it can answer searches."""

    status: Literal["ok", "unready"]
    ready: bool
    detail: str
    items: int
    moments: int
    model_id: str
    version: str


class Welcome(_Value):
    """Whether a token is needed, and whether this request brought it."""

    token_needed: bool
    welcome: bool
    max_upload_mb: int
    query_seconds: float


class SessionOrder(_Value):
    """The token, to be kept in a cookie for the page's films and pictures, which cannot send a header."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, StringConstraints(max_length=500)]
