"""Lists of moments for editing programs: CMX 3600 edit decision lists (EDL), and CSV for spreadsheets and scripts.

An EDL has one event per moment, placed one after the other from 01:00:00:00 in the order of their rank, to be played through:

    001  AX       AA    C        00:00:05:00 00:00:07:00 01:00:00:00 01:00:02:00
    * FROM CLIP NAME: rain.wav

AX is the reel of files (auxiliary). V is video, AA both audio channels, and AA/V all of them.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av

from cmmixer.editing.timecode import FrameRate
from cmmixer.errors import InputError, MediaError, SettingsError
from cmmixer.media.container import best_video_stream, check_file, media_errors, open_container
from cmmixer.storage.files import explain_full_disk, write_atomically

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

_TRACKS = {"video": "V", "audio": "AA", "any": "AA/V"}

# Event numbers have three digits.
_MAX_EVENTS = 999

_FIRST_EVENT_SECONDS = 3600.0
_FILE_SECONDS = 20.0


class Moment(Protocol):
    """A moment of a library that matches one of a query; `cmmixer.retrieval.Hit` is one."""

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
        frames_per_second: average of its video; None for a sound.
        first_seconds: timecode of its first frame; cameras continue the count from clip to clip.
    """

    frames_per_second: float | None = None
    first_seconds: float = 0.0


def source_timing(path: str | Path) -> SourceTiming:
    """Reads the frame rate and the first timecode of a file; a file that cannot be read has neither."""
    try:
        with media_errors(str(path)), open_container(check_file(path), _FILE_SECONDS) as container:
            video = best_video_stream(container)
            if video is None or not video.average_rate:
                return SourceTiming()
            rate = float(video.average_rate)
            candidates = [stream.metadata.get("timecode") for stream in (video, *container.streams)]
            timecode = next((text for text in (*candidates, container.metadata.get("timecode")) if text), None)
            return SourceTiming(rate, (timecode and FrameRate.fitting(rate).seconds_of(timecode)) or 0.0)
    except (MediaError, av.FFmpegError):
        return SourceTiming()


def write_edl(
    path: str | Path,
    hits: Sequence[Moment],
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
        hits: in the order of the events.
        target: tracks of the events: audio, video or any.
        rate: of all timecodes.
        title: of the list.
        query: name of the query.
        timing: returns how a file counts its frames.

    Raises:
        SettingsError: more moments than the format can number.
        InputError: the disk is full, or the folder cannot be written to.
    """
    if len(hits) > _MAX_EVENTS:
        raise SettingsError(f"{path}: got {len(hits)} moments, but CMX 3600 holds {_MAX_EVENTS}; ask for fewer")
    lines = [f"TITLE: {_one_line(title)}", f"FCM: {'DROP FRAME' if rate.drops else 'NON-DROP FRAME'}"]
    position = rate.frames(_FIRST_EVENT_SECONDS)
    for number, hit in enumerate(hits, start=1):
        first = timing(hit.path).first_seconds
        begin = rate.frames(first + hit.start_seconds)
        length = max(1, rate.frames(first + hit.end_seconds) - begin)
        span = " ".join(rate.timecode(frame) for frame in (begin, begin + length, position, position + length))
        query_span = " - ".join(_timecodes(rate, hit.query_start_seconds, hit.query_end_seconds))
        lines += [
            "",
            f"{number:03d}  AX       {_TRACKS[target]:<5} C        {span}",
            f"* FROM CLIP NAME: {_one_line(os.path.basename(hit.path))}",
            f"* SOURCE FILE: {_one_line(hit.path)}",
            f"* COMMENT: RANK {hit.rank}, SCORE {hit.score:.3f}, GOES WITH {query_span} OF {_one_line(query)}",
        ]
        position += length
    _write_list(Path(path), "\r\n".join(lines) + "\r\n")


def write_csv(
    path: str | Path,
    hits: Sequence[Moment],
    *,
    rate: FrameRate,
    query: str,
    timing: Callable[[str], SourceTiming] = source_timing,
) -> None:
    """Writes moments as a table with the header `COLUMNS`, one row each. Arguments and errors as for `write_edl`."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for hit in hits:
        first = timing(hit.path).first_seconds
        span, query_span = (hit.start_seconds, hit.end_seconds), (hit.query_start_seconds, hit.query_end_seconds)
        moment = [*_decimals(span), *_timecodes(rate, *(first + seconds for seconds in span))]
        matched = [_cell(query), *_decimals(query_span), *_timecodes(rate, *query_span)]
        about = [_cell(hit.source), _cell(hit.label or "")]
        rows.writerow([hit.rank, _cell(hit.path), *moment, *matched, f"{hit.score:.4f}", *about])
    _write_list(Path(path), text.getvalue())


def _cell(text: str) -> str:
    """Keeps a spreadsheet from running a name as a formula: an apostrophe marks it as text (OWASP, "CSV injection")."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _timecodes(rate: FrameRate, *instants: float) -> list[str]:
    return [rate.timecode(rate.frames(seconds)) for seconds in instants]


def _decimals(instants: tuple[float, float]) -> list[str]:
    return [f"{seconds:.3f}" for seconds in instants]


def _one_line(text: str) -> str:
    """Replaces line breaks: a file name may hold one, and the line after it would be read as an event."""
    return " ".join(text.split())


def _write_list(path: Path, text: str) -> None:
    """Writes a list atomically; raises InputError if the disk is full or the folder cannot be written to."""
    with explain_full_disk(path, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8", "replace"))
