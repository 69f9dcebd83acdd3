"""CMX 3600, the edit decision list that every editing program reads.

One event a moment, laid one after the other from 01:00:00:00 in the order of their rank, ready to be listened through:

    001  AX       AA    C        00:00:05:00 00:00:07:00 01:00:00:00 01:00:02:00
    * FROM CLIP NAME: rain.wav

AX is the reel of files (auxiliary); V, AA and AA/V are picture, both sound channels, and all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cmmixer.atomic import explain_full_disk, write_atomically
from cmmixer.cutlist.moments import Chosen, SourceTiming, source_timing
from cmmixer.cutlist.timecode import FrameRate
from cmmixer.errors import InputError, SettingsError

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
