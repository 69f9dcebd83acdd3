"""Decodes the clips of one media file and encodes them as rows of a clip store.

Runs in decoder processes, so neither torch nor Lance is imported here.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmmixer.data.manifest import Entry
from cmmixer.data.segments import Segment, SegmentSpec, decode_segment, open_entry, segments_of
from cmmixer.errors import MediaError
from cmmixer.media.audio import loudness_dbfs
from cmmixer.types import AudioWindows, Frames, Span


@dataclass(frozen=True)
class EncodedClip:
    """A clip as a store keeps it.

    Attributes:
        id: see `clip_id`.
        span: where it lies in the file.
        times_seconds: T frame instants.
        jpegs: T frames.
        windows: T x N int16 samples, little endian.
    """

    id: str
    span: Span
    times_seconds: list[float]
    jpegs: list[bytes]
    windows: bytes


@dataclass(frozen=True)
class EncodedMedia:
    """The encoded clips of one entry.

    Attributes:
        clips: in order of time.
        fingerprint: SHA-256 of all decoded pixels and samples. Copies of a video have the same one, whatever container they
            are in.
        loudest_dbfs: loudness of the loudest audio window.
        failure: why some clips are missing, if only a part could be decoded.
    """

    clips: list[EncodedClip]
    fingerprint: str
    loudest_dbfs: float
    failure: MediaError | None

    @property
    def bytes(self) -> int:
        """Size of all frames and audio windows."""
        return sum(len(clip.windows) + sum(map(len, clip.jpegs)) for clip in self.clips)


def encode_entry(entry: Entry, *, spec: SegmentSpec, jpeg_quality: int) -> EncodedMedia:
    """Decodes and encodes all clips of an entry. Clips that are damaged are left out.

    Raises:
        MediaError: the entry gives no clip, or took too long.
    """
    with open_entry(entry, spec.file_seconds) as media:
        segments = segments_of(media, spec)
    digest, loudest = hashlib.sha256(), -math.inf
    clips: list[EncodedClip] = []
    failure: MediaError | None = None
    for segment in segments:
        try:
            # Each by itself: a stored clip must be bit for bit what training from the video would see.
            clip = decode_segment(segment, spec)
        except MediaError as error:
            if error.reason in ("time-limit", "no-video", "no-audio"):
                raise
            failure = failure or error
            continue
        assert clip.frames is not None
        assert clip.sound is not None
        digest.update(clip.frames.pixels_THWC.tobytes())
        digest.update(clip.sound.samples_TN.tobytes())
        loudest = max(loudest, *(loudness_dbfs(samples_N) for samples_N in clip.sound.samples_TN))
        clips.append(_encoded(segment, clip.frames, clip.sound, jpeg_quality))
    if not clips:
        assert failure is not None  # `segments_of` gives at least one segment
        raise failure
    return EncodedMedia(clips, digest.hexdigest(), loudest, failure)


def encode_jpeg(pixels_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """Encodes a frame as JPEG, with colour at full resolution (4:4:4)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes, planes_CHW: NDArray[np.uint8]) -> None:
    """Decodes a stored frame into `planes_CHW`, one plane per colour channel.

    Raises:
        OSError: the JPEG is damaged.
        ValueError: it has another size or is not in colour.
    """
    # One format only, and no interleaved copy: both would cost half as much as decoding.
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        if image.mode != "RGB":
            raise ValueError(f"got a JPEG of mode {image.mode}, expected RGB")
        for plane_HW, colour in zip(planes_CHW, "RGB", strict=True):
            plane = np.frombuffer(image.tobytes("raw", colour), np.uint8)
            plane_HW[...] = plane.reshape(image.height, image.width)


def _encoded(segment: Segment, frames: Frames, windows: AudioWindows, jpeg_quality: int) -> EncodedClip:
    return EncodedClip(
        id=segment.id,
        span=segment.span,
        times_seconds=frames.times_seconds_T.tolist(),
        jpegs=[encode_jpeg(pixels_HWC, jpeg_quality) for pixels_HWC in frames.pixels_THWC],
        windows=windows.samples_TN.astype("<i2", copy=False).tobytes(),
    )
