"""Previews of a file: its streams, a thumbnail, its waveform.

These functions run in decoder processes (`cmmixer.media.sandbox`), on untrusted files.

Letters: N samples of a stretch, P bins of a waveform.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmmixer.media.decode import MediaFile, MediaInfo

# Enough for the envelope of a waveform that is drawn some hundreds of pixels wide.
_RATE_HZ = 8000
_BLOCK_SECONDS = 20.0
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class InfoTask:
    """A request for the streams of a file.

    Attributes:
        path: the file.
        file_seconds: time limit.
    """

    path: str
    file_seconds: float


@dataclass(frozen=True)
class ThumbnailTask:
    """A request for a frame of a video.

    Attributes:
        path: the video.
        seconds: the instant.
        height, width: size in pixels; the frame is cropped around its middle to this shape.
        file_seconds: time limit.
    """

    path: str
    seconds: float
    height: int
    width: int
    file_seconds: float


@dataclass(frozen=True)
class PeaksTask:
    """A request for the waveform of a sound.

    Attributes:
        path: the file.
        start_seconds, end_seconds: the stretch.
        bins: number of equal parts, P.
        file_seconds: time limit.
    """

    path: str
    start_seconds: float
    end_seconds: float
    bins: int
    file_seconds: float


def read_info(task: InfoTask) -> MediaInfo:
    """Returns the streams of an untrusted file.

    Raises:
        MediaError: it cannot be read.
    """
    with MediaFile.open(task.path, task.file_seconds) as media:
        return media.info


def thumbnail(task: ThumbnailTask) -> bytes:
    """Returns the frame on screen at an instant, as a JPEG file.

    Raises:
        MediaError: no video stream, or one that cannot be decoded.
    """
    with MediaFile.open(task.path, task.file_seconds) as media:
        pixels_HWC = media.frames([task.seconds], task.height, task.width).pixels_THWC[0]
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return out.getvalue()


def peaks(task: PeaksTask) -> tuple[list[int], list[int]]:
    """Returns the lowest and the highest sample of each bin; full scale is 127.

    Raises:
        MediaError: no audio stream, or one that cannot be decoded.
    """
    with MediaFile.open(task.path, task.file_seconds) as media:
        samples_N = _samples(media, task.start_seconds, task.end_seconds)
    return envelope(samples_N, task.bins)


def envelope(samples_N: NDArray[np.int16], bins: int) -> tuple[list[int], list[int]]:
    """Returns the lowest and the highest sample of each of P equal parts; a part holds at least its first sample."""
    edges = np.floor(np.arange(bins + 1) * (len(samples_N) / bins)).astype(np.intp)
    starts_P = np.minimum(edges[:-1], len(samples_N) - 1)
    low_P = np.minimum.reduceat(samples_N, starts_P)
    high_P = np.maximum.reduceat(samples_N, starts_P)
    # reduceat returns a single sample if two parts begin at the same one, and extends the last part to the end, as intended.
    return [_level(value) for value in low_P], [_level(value) for value in high_P]


def _level(sample: np.int16) -> int:
    return round(float(sample) * 127 / 32768)


def _samples(media: MediaFile, start_seconds: float, end_seconds: float) -> NDArray[np.int16]:
    """Returns the mono samples of a stretch, decoded in blocks to bound memory."""
    parts = []
    count = max(1, math.ceil((end_seconds - start_seconds) / _BLOCK_SECONDS))
    for number in range(count):
        start = start_seconds + number * _BLOCK_SECONDS
        length = min(_BLOCK_SECONDS, end_seconds - start)
        if round(length * _RATE_HZ) > 0:
            parts.append(media.audio_windows([start + length / 2], length, _RATE_HZ).samples_TN[0])
    return np.concatenate(parts)
