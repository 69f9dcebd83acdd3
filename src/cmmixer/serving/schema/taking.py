"""Taking finds along: films with another sound, cut lists."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cmmixer.serving.schema.base import Id, Seconds, Sense, Text, Value


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
