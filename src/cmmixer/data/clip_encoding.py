"""One film becomes the rows of a clip store. Runs in decoder processes: imports neither torch nor Lance."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmmixer.config.clip import ClipSettings
from cmmixer.data.clips import clip_ref, entry_spans, open_entry, read_ref
from cmmixer.data.manifest import Entry
from cmmixer.errors import MediaError
from cmmixer.media.decode import loudness_dbfs
from cmmixer.types import Frames, SoundWindows, Span


@dataclass(frozen=True)
class StoredClip:
    """A clip as it lies in a store.

    Attributes:
        id: see `clip_id`.
        span: where in the film it lies.
        times_seconds: T frame instants.
        jpegs: T pictures.
        windows: T x N int16 samples, little endian.
    """

    id: str
    span: Span
    times_seconds: list[float]
    jpegs: list[bytes]
    windows: bytes


@dataclass(frozen=True)
class FilmRows:
    """What decoding a film gave.

    Attributes:
        clips: in the order of time.
        fingerprint: SHA-256 over all decoded pixels and samples: equal for copies of a film, however they are packed.
        loudest_dbfs: of all sound windows.
        failure: why some clips are missing, where the film could be decoded only in part.
    """

    clips: list[StoredClip]
    fingerprint: str
    loudest_dbfs: float
    failure: MediaError | None

    @property
    def bytes(self) -> int:
        """Of its pictures and sound."""
        return sum(len(clip.windows) + sum(map(len, clip.jpegs)) for clip in self.clips)


def too_quiet(film: FilmRows, silence_dbfs: float) -> bool:
    """Whether a film counts as silent."""
    return film.loudest_dbfs < silence_dbfs


def decode_film(
    entry: Entry, *, clip: ClipSettings, stride_seconds: float | None, jpeg_quality: int, file_seconds: float
) -> FilmRows:
    """Decodes all clips of a film.

    Raises:
        MediaError: the film gives no clip, or took too long; carries the reason.
    """
    with open_entry(entry, file_seconds) as (film, sound):
        spans = entry_spans(entry, film, sound, clip, stride_seconds)
    digest, loudest = hashlib.sha256(), -math.inf
    clips: list[StoredClip] = []
    failure: MediaError | None = None
    for span in spans:
        try:
            # Opened anew for each clip: some decoders remember what they decoded before (AAC draws noise from a
            # running state), and a stored clip must be bit for bit what training from the film would see.
            one = read_ref(clip_ref(entry, span), clip, file_seconds=file_seconds)
        except MediaError as error:
            if error.reason in ("time-limit", "no-picture", "no-sound"):
                raise
            failure = failure or error
            continue
        assert one.frames is not None
        assert one.sound is not None
        digest.update(one.frames.pixels_THWC.tobytes())
        digest.update(one.sound.samples_TN.tobytes())
        loudest = max(loudest, *(loudness_dbfs(samples_N) for samples_N in one.sound.samples_TN))
        clips.append(_stored(one.id, span, one.frames, one.sound, jpeg_quality))
    if not clips:
        assert failure is not None  # `entry_spans` gives one span or more
        raise failure
    return FilmRows(clips, digest.hexdigest(), loudest, failure)


def encode_jpeg(pixels_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """A picture as JPEG, colours at full resolution (4:4:4)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes, planes_CHW: NDArray[np.uint8]) -> None:
    """Writes the pixels of a stored picture, a plane for each colour.

    Raises:
        OSError: it is damaged.
        ValueError: it has another size, or is not in colour.
    """
    # One format and no picture beside the planes: opening and copying would cost half as much as decoding.
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        if picture.mode != "RGB":
            raise ValueError(f"a picture of mode {picture.mode}, expected RGB")
        for plane_HW, colour in zip(planes_CHW, "RGB", strict=True):
            plane = np.frombuffer(picture.tobytes("raw", colour), np.uint8)
            plane_HW[...] = plane.reshape(picture.height, picture.width)


def _stored(name: str, span: Span, frames: Frames, windows: SoundWindows, jpeg_quality: int) -> StoredClip:
    return StoredClip(
        id=name,
        span=span,
        times_seconds=frames.times_seconds_T.tolist(),
        jpegs=[encode_jpeg(pixels_HWC, jpeg_quality) for pixels_HWC in frames.pixels_THWC],
        windows=windows.samples_TN.astype("<i2", copy=False).tobytes(),
    )
