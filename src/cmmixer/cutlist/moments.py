"""What a cut list needs to know of a moment and of the film it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av

from cmmixer.cutlist.timecode import FrameRate
from cmmixer.errors import MediaError
from cmmixer.media.container import best_picture, check_file, media_errors, open_container

_LIMIT_SECONDS = 20.0


class Chosen(Protocol):
    """A moment of a library that goes with one of a query, as `cmmixer.searching.Hit` is."""

    @property
    def rank(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def start_seconds(self) -> float: ...
    @property
    def end_seconds(self) -> float: ...
    @property
    def score(self) -> float: ...
    @property
    def query_start_seconds(self) -> float: ...
    @property
    def query_end_seconds(self) -> float: ...
    @property
    def source(self) -> str: ...
    @property
    def label(self) -> str | None: ...


@dataclass(frozen=True)
class SourceTiming:
    """How a file counts its frames.

    Attributes:
        frames_per_second: average of its pictures; None for a sound.
        first_seconds: what its first frame's timecode says; cameras count on from clip to clip.
    """

    frames_per_second: float | None = None
    first_seconds: float = 0.0


def source_timing(path: str | Path) -> SourceTiming:
    """Rate and first timecode of a file; what cannot be read has neither."""
    try:
        with media_errors(str(path)), open_container(check_file(path), _LIMIT_SECONDS) as container:
            picture = best_picture(container)
            if picture is None or not picture.average_rate:
                return SourceTiming()
            rate = float(picture.average_rate)
            told = [stream.metadata.get("timecode") for stream in (picture, *container.streams)]
            first = next((text for text in (*told, container.metadata.get("timecode")) if text), None)
            return SourceTiming(rate, (first and FrameRate.fitting(rate).seconds_of(first)) or 0.0)
    except (MediaError, av.FFmpegError):
        return SourceTiming()
