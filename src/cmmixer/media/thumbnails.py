"""What a page shows of a file before anybody plays it: what is in it, a thumbnail, its waveform.

The functions run in decoder processes (`isolate`), on files that strangers send.

Letters: N samples of a stretch, P bins of a waveform.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmmixer.errors import MediaError
from cmmixer.media.decode import Film, FilmInfo

# Formats that name other files; through them a stranger's file could show what lies elsewhere on this machine.
_PLAY_LISTS = frozenset(("concat", "dash", "hls", "imf", "sdp", "webm_dash_manifest"))
# Enough for a waveform that is drawn some hundreds of pixels wide; everything above 4 kHz folds into its envelope.
_RATE_HZ = 8000
_BLOCK_SECONDS = 20.0
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class LookTask:
    """A file to be looked into.

    Attributes:
        path: the file.
        file_seconds: longest time spent on it.
    """

    path: str
    file_seconds: float


@dataclass(frozen=True)
class ThumbnailTask:
    """A picture that is wanted of a film.

    Attributes:
        path: the film.
        seconds: at which instant.
        height, width: pixels wanted; the middle of the frame, cropped to their shape.
        file_seconds: longest time spent on it.
    """

    path: str
    seconds: float
    height: int
    width: int
    file_seconds: float


@dataclass(frozen=True)
class PeaksTask:
    """A waveform that is wanted of a sound.

    Attributes:
        path: the file.
        start_seconds, end_seconds: the stretch.
        bins: into how many equal parts it is cut.
        file_seconds: longest time spent on it.
    """

    path: str
    start_seconds: float
    end_seconds: float
    bins: int
    file_seconds: float


def look(task: LookTask) -> FilmInfo:
    """What a stranger's file holds.

    Raises:
        MediaError: it cannot be read, or is a play list that names other files.
    """
    with Film.open(task.path, task.file_seconds) as film:
        refuse_play_list(film.info)
        return film.info


def refuse_play_list(info: FilmInfo) -> None:
    """Raises MediaError for a file that only names others."""
    if _PLAY_LISTS & set(info.container.split(",")):
        raise MediaError(info.path, "unreadable", "is a play list that names other files, not a film or a sound")


def thumbnail(task: ThumbnailTask) -> bytes:
    """The frame on screen at an instant, as a JPEG file.

    Raises:
        MediaError: no picture, or one that cannot be decoded.
    """
    with Film.open(task.path, task.file_seconds) as film:
        pixels_HWC = film.frames([task.seconds], task.height, task.width).pixels_THWC[0]
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return out.getvalue()


def peaks(task: PeaksTask) -> tuple[list[int], list[int]]:
    """Lowest and highest sample of each bin, -127 to 127 of full scale.

    Raises:
        MediaError: no sound, or one that cannot be decoded.
    """
    with Film.open(task.path, task.file_seconds) as film:
        samples_N = _samples(film, task.start_seconds, task.end_seconds)
    return envelope(samples_N, task.bins)


def envelope(samples_N: NDArray[np.int16], bins: int) -> tuple[list[int], list[int]]:
    """Lowest and highest sample of each of P equal parts; each part has at least the sample it begins with."""
    edges = np.floor(np.arange(bins + 1) * (len(samples_N) / bins)).astype(np.intp)
    starts_P = np.minimum(edges[:-1], len(samples_N) - 1)
    low_P = np.minimum.reduceat(samples_N, starts_P)
    high_P = np.maximum.reduceat(samples_N, starts_P)
    # reduceat gives one sample where two parts begin at the same one, and lets the last part reach to the end: as wanted.
    return [_level(value) for value in low_P], [_level(value) for value in high_P]


def _level(sample: np.int16) -> int:
    return round(float(sample) * 127 / 32768)


def _samples(film: Film, start_seconds: float, end_seconds: float) -> NDArray[np.int16]:
    """Mono samples of a stretch, decoded block by block so that memory stays bounded."""
    parts = []
    count = max(1, math.ceil((end_seconds - start_seconds) / _BLOCK_SECONDS))
    for number in range(count):
        start = start_seconds + number * _BLOCK_SECONDS
        length = min(_BLOCK_SECONDS, end_seconds - start)
        if round(length * _RATE_HZ) > 0:
            parts.append(film.sound_windows([start + length / 2], length, _RATE_HZ).samples_TN[0])
    return np.concatenate(parts)
