"""CMX 3600, the edit decision list that every editing program reads.

One event a moment, laid one after the other from 01:00:00:00 in the order of their rank, ready to be listened through:

    001  AX       AA    C        00:00:05:00 00:00:07:00 01:00:00:00 01:00:02:00
    * FROM CLIP NAME: rain.wav

AX is the reel of files (auxiliary); V, AA and AA/V are picture, both sound channels, and all of them.

What a cut list needs to know of a moment and of the film it lies in.

The same moments as CSV: for a spreadsheet, or a script.

Seconds <-> SMPTE timecode (ST 12-1): hours:minutes:seconds:frames, counted at a nominal whole rate.

At 29.97 and 59.94 frames per second the count falls behind the clock by 3.6 s an hour. Drop-frame timecode leaves out
numbers, never frames: the first two (four) of each minute but every tenth. 23.976 is counted without.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, Self

import av

from cmmixer.errors import InputError, MediaError, SettingsError
from cmmixer.media.container import best_picture, check_file, media_errors, open_container
from cmmixer.storage.files import explain_full_disk, write_atomically

# Rates that editing programs have projects in.
_STANDARD = [Fraction(rate * 1000, 1001) for rate in (24, 30, 60)] + [
    Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)
]

# Containers say 29.97 or 30000/1001 or what an average over the file comes to.
_SAME_RATE = 5e-4

_MOST_TIMES = 6


@dataclass(frozen=True)
class FrameRate:
    """A rate of timecode.

    Attributes:
        exact: frames per second.
    """

    exact: Fraction

    @property
    def nominal(self) -> int:
        """Frames that are counted to a second."""
        return math.ceil(self.exact)

    @property
    def drops(self) -> bool:
        """Whether numbers are left out so that the count keeps to the clock."""
        return self.exact.denominator != 1 and self.nominal % 30 == 0

    @classmethod
    def fitting(cls, frames_per_second: float) -> Self:
        """The standard rate for pictures of any rate.

        The same, or the smallest that is a whole multiple (12.5 -> 25), so that every picture begins with a frame; else the
        nearest, as for a phone's varying rate.
        """
        for times in range(1, _MOST_TIMES + 1):
            for rate in sorted(_STANDARD):
                if abs(frames_per_second * times / float(rate) - 1) < _SAME_RATE:
                    return cls(rate)
        return cls(min(_STANDARD, key=lambda rate: abs(math.log(float(rate) / max(frames_per_second, 1e-9)))))

    def frames(self, seconds: float) -> int:
        """The frame that begins nearest to an instant."""
        return math.floor(seconds * self.exact + Fraction(1, 2))

    def timecode(self, frame: int) -> str:
        """The number of a frame; after 24 hours it begins anew."""
        if self.drops:
            left_out = self.nominal // 15
            tens, rest = divmod(frame, self.nominal * 600 - 9 * left_out)
            frame += 9 * left_out * tens
            if rest >= self.nominal * 60:
                frame += left_out * ((rest - self.nominal * 60) // (self.nominal * 60 - left_out) + 1)
        seconds, frames = divmod(frame, self.nominal)
        hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
        return f"{hours:02d}:{minutes:02d}:{seconds % 60:02d}{';' if self.drops else ':'}{frames:02d}"

    def seconds_of(self, timecode: str) -> float | None:
        """When the frame of a number begins; None for what is no timecode."""
        found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)[:;.](\d\d)", timecode.strip())
        if found is None:
            return None
        hours, minutes, seconds, frames = map(int, found.groups())
        minutes += 60 * hours
        count = (60 * minutes + seconds) * self.nominal + frames
        if self.drops:
            count -= self.nominal // 15 * (minutes - minutes // 10)
        return float(count / self.exact)


_LIMIT_SECONDS = 20.0


class Chosen(Protocol):
    """A moment of a library that goes with one of a query, as `cmmixer.retrieval.Hit` is."""

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


_TRACKS = {"video": "V", "audio": "AA", "film": "AA/V"}

# Event numbers have three digits.
_MOST_EVENTS = 999

_FIRST_HOUR_SECONDS = 3600.0


def write_edl(
    path: str | Path,
    hits: Sequence[Chosen],
    *,
    target: str,
    rate: FrameRate,
    title: str,
    query: str,
    timing: Callable[[str], SourceTiming] = source_timing,
) -> None:
    """Writes moments as an edit decision list.

    Args:
        path: file to write.
        hits: in the order they are laid.
        target: what they are: audio, video or film.
        rate: of all timecodes.
        title: of the list.
        query: name of what was searched with.
        timing: tells how a file counts its frames.

    Raises:
        SettingsError: more moments than the format counts.
        InputError: the disk is full, or the folder cannot be written to.
    """
    if len(hits) > _MOST_EVENTS:
        raise SettingsError(f"{path}: got {len(hits)} moments, but CMX 3600 holds {_MOST_EVENTS}; ask for fewer")
    lines = [f"TITLE: {_one_line(title)}", f"FCM: {'DROP FRAME' if rate.drops else 'NON-DROP FRAME'}"]
    place = rate.frames(_FIRST_HOUR_SECONDS)
    for number, hit in enumerate(hits, start=1):
        first = timing(hit.path).first_seconds
        begin = rate.frames(first + hit.start_seconds)
        length = max(1, rate.frames(first + hit.end_seconds) - begin)
        span = " ".join(rate.timecode(frame) for frame in (begin, begin + length, place, place + length))
        goes_with = " - ".join(
            rate.timecode(rate.frames(seconds)) for seconds in (hit.query_start_seconds, hit.query_end_seconds)
        )
        lines += [
            "",
            f"{number:03d}  AX       {_TRACKS[target]:<5} C        {span}",
            f"* FROM CLIP NAME: {_one_line(os.path.basename(hit.path))}",
            f"* SOURCE FILE: {_one_line(hit.path)}",
            f"* COMMENT: RANK {hit.rank}, SCORE {hit.score:.3f}, GOES WITH {goes_with} OF {_one_line(query)}",
        ]
        place += length
    save(Path(path), "\r\n".join(lines) + "\r\n")


def save(path: Path, text: str) -> None:
    """Writes a list whole.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    with explain_full_disk(path, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8", "replace"))


def _one_line(text: str) -> str:
    """A name may hold line breaks, and a line of its own would be an event."""
    return " ".join(text.split())


COLUMNS = (
    "rank",
    "path",
    "start_seconds",
    "end_seconds",
    "source_in",
    "source_out",
    "query",
    "query_start_seconds",
    "query_end_seconds",
    "query_in",
    "query_out",
    "score",
    "source",
    "label",
)


def write_csv(
    path: str | Path,
    hits: Sequence[Chosen],
    *,
    rate: FrameRate,
    query: str,
    timing: Callable[[str], SourceTiming] = source_timing,
) -> None:
    """Writes moments as a table, one row each; `COLUMNS` heads it. Arguments and errors as `write_edl`."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for hit in hits:
        first = timing(hit.path).first_seconds
        moment = [rate.timecode(rate.frames(first + seconds)) for seconds in (hit.start_seconds, hit.end_seconds)]
        asked = (hit.query_start_seconds, hit.query_end_seconds)
        asked_codes = [rate.timecode(rate.frames(seconds)) for seconds in asked]
        place = [hit.rank, hit.path, f"{hit.start_seconds:.3f}", f"{hit.end_seconds:.3f}", *moment]
        found_by = [query, *(f"{seconds:.3f}" for seconds in asked), *asked_codes]
        rows.writerow([*place, *found_by, f"{hit.score:.4f}", hit.source, hit.label or ""])
    save(Path(path), text.getvalue())
