"""Files of the library, the jobs that index folders, and what is exported: dubbed videos and cut lists."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from cmmixer.server.schemas.base import Id, Kind, Modality, Moment, Schema, Seconds, Text

State = Literal["queued", "running", "cancelling", "done", "failed", "cancelled"]

ITEM_EXAMPLE: JsonDict = {
    "id": "5f0c1d9a7be24c6d8e9f0a1b",
    "name": "harbour/gulls.mp4",
    "title": "gulls",
    "folder": "9d2f4b6a8c0e1f3a5b7c9d1e",
    "folder_name": "videos/harbour",
    "kind": "video",
    "label": "gull",
    "source": "harbour/gulls",
    "metadata": {"camera": "B", "licence": "CC0"},
    "duration_seconds": 9.6,
    "moments": 4,
    "missing": False,
}

DETAIL_EXAMPLE: JsonDict = {
    **ITEM_EXAMPLE,
    "has_video": True,
    "has_audio": True,
    "spans": [{"start_seconds": 0.0, "end_seconds": 4.0}, {"start_seconds": 2.0, "end_seconds": 6.0}],
    "columns": {"label": "gull", "source": "harbour/gulls", "moments": 4, "camera": "B", "licence": "CC0"},
}


class Item(Schema):
    """A file of the library."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [ITEM_EXAMPLE]})
    id: str
    name: str = Field(description="path relative to the folder that was indexed")
    title: str = Field(description="file name without its ending")
    folder: str = Field(description="id of its folder")
    folder_name: str
    kind: Kind
    label: str | None
    source: str
    metadata: dict[str, Any] = Field({}, description="further columns of the manifest")
    duration_seconds: float
    moments: int
    missing: bool = Field(description="whether the file is no longer where it was indexed")


class ItemDetail(Item):
    """A file of the library with its moments and all its columns."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [DETAIL_EXAMPLE]})
    has_video: bool
    has_audio: bool = Field(description="whether it has audio that is not silent")
    spans: list[Moment]
    columns: dict[str, Any]


class ItemPage(Schema):
    """A page of the files of the library."""

    items: list[Item]
    total: int = Field(description="files that pass the filters")
    offset: int
    next_offset: int | None = Field(description="where the next page begins; null on the last page")


class Folder(Schema):
    """A source folder of the library, or one that may be indexed."""

    id: str
    name: str
    items: int = Field(description="files of the library in it and its subfolders")


class FolderListing(Schema):
    """Folders that may be indexed: the allowed ones, or the subfolders of one of them."""

    parent: Folder | None
    folders: list[Folder]


class Facet(Schema):
    """A value of a column, with the number of files that have it."""

    value: str
    items: int


class Column(Schema):
    """A column of the indexed manifests, with its most frequent values."""

    name: str
    values: list[Facet]


class Library(Schema):
    """Contents of the library, and the values it can be filtered by."""

    items: int
    videos: int
    audio_files: int
    moments: int
    seconds: float = Field(description="total duration of all files")
    longest_seconds: float
    moment_seconds: float = Field(description="duration of a moment")
    stride_seconds: float = Field(description="distance between the beginnings of two moments")
    model_id: str
    folders: list[Folder]
    labels: list[Facet]
    columns: list[str] = Field(description="columns that `where` accepts")
    metadata: list[Column] = Field([], description="the columns that come from manifests, with their values")


class Peaks(Schema):
    """A waveform: the lowest and highest sample of each bin, where 127 is full scale."""

    start_seconds: float
    end_seconds: float
    low: list[int]
    high: list[int]


class Playback(Schema):
    """An address that a browser can play, for a file or a part of it."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "media": "/api/v1/items/5f0c1d9a7be24c6d8e9f0a1b/converted?modality=video&start_seconds=60",
                    "start_seconds": 60.0,
                    "converted": True,
                }
            ]
        },
    )
    media: str = Field(description="address of the file itself, or of a converted part of it")
    start_seconds: float = Field(description="time in the file at which `media` begins")
    converted: bool = Field(
        description="whether `media` is converted: smaller, and only as long as could be converted in a short time"
    )


class JobRequest(Schema):
    """A folder to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"folder": "9d2f4b6a8c0e1f3a5b7c9d1e"}]})
    folder: Id = Field(description="id of a folder of GET /folders")
    remove_missing: bool = Field(False, description="also remove files from the index that are no longer in the folder")


class Skipped(Schema):
    """A file that was skipped, and why."""

    name: str
    reason: str
    message: str


class JobReport(Schema):
    """Counts of files by what indexing did with them."""

    added: int
    changed: int
    unchanged: int
    removed: int
    skipped: int
    moments: int = Field(description="moments in the whole index")


class Job(Schema):
    """A folder being indexed in the background."""

    id: str
    folder: str
    folder_name: str
    state: State
    phase: str = Field(description="current step")
    done: int
    total: int | None = Field(description="steps of this phase; null: not known yet")
    seconds: float = Field(description="since the job was created")
    seconds_left: float | None
    report: JobReport | None
    skipped: list[Skipped] = Field(description="skipped files of the folder, the first thousand")
    skipped_total: int
    problem: str | None = Field(description="error message of a failed job")


class JobList(Schema):
    """Jobs since the service started, newest first."""

    jobs: list[Job]


class MediaSource(Schema):
    """A file to work with: either an upload or a file of the library."""

    model_config = ConfigDict(extra="forbid")
    query: Id | None = Field(None, description="an uploaded file")
    item: Id | None = Field(None, description="a file of the library")


class DubRequest(Schema):
    """A video to write with new audio."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "video": {"query": "0a1b2c3d4e5f60718293a4b5"},
                    "audio": {"item": "5f0c1d9a7be24c6d8e9f0a1b"},
                    "start_seconds": 4.0,
                    "at_seconds": 0.0,
                }
            ]
        },
    )
    video: MediaSource
    audio: MediaSource
    start_seconds: Seconds = Field(0.0, description="time in the audio that is placed at `at_seconds`")
    at_seconds: Seconds = Field(0.0, description="time in the video at which the audio begins")
    loudness_lufs: float = Field(
        -23.0, ge=-60.0, le=-5.0, description="integrated loudness of the result; -23 is EBU R128"
    )
    duck: bool = Field(False, description="keep the video's own audio and lower the new audio while it can be heard")
    container: Literal["mp4", "mkv", "mov"] = "mp4"


class Dub(Schema):
    """A video that was written with new audio."""

    id: str
    name: str
    media: str = Field(description="address of the video")
    video_seconds: float
    begins_seconds: float = Field(description="time in the video at which the new audio begins")
    ends_seconds: float
    gain_db: float
    loudness_lufs: float | None = Field(
        description="measured on the result; null where it is too short or too quiet to measure"
    )
    true_peak_dbtp: float | None
    limited: bool
    video_codec: str
    audio_codec: str


class CutMoment(Schema):
    """A chosen moment of a library file."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    start_seconds: Seconds
    end_seconds: Seconds
    score: float = Field(0.0, allow_inf_nan=False)
    query_start_seconds: Seconds = 0.0
    query_end_seconds: Seconds = 0.0


class CutListRequest(Schema):
    """Chosen moments for an editing program, in the order of the edit."""

    model_config = ConfigDict(extra="forbid")
    moments: list[CutMoment] = Field(min_length=1, max_length=999)
    target: Modality = Field("audio", description="which modality of the moments to cut in; any: both")
    frames_per_second: float = Field(25.0, ge=1.0, le=240.0)
    title: Text = "CMMixer"
    query: Text = Field("", description="name of the file that was searched with")
    format: Literal["edl", "csv"] = "edl"
