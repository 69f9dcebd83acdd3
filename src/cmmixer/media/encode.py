"""Pixels and samples -> files: H.264 + AAC in mp4, PCM in wav. A file appears under its name only when it is complete."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cmmixer.storage.files import TEMPORARY

# Small, fast and near enough to the pixels: what synthetic films need.
_X264 = {"preset": "ultrafast", "crf": "20", "threads": "1"}
_AAC = {"aac_coder": "fast"}
_AAC_BITS_PER_SECOND = 96_000
_AAC_BLOCK_SAMPLES = 1024


@contextmanager
def appearing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` at the end, removed on any error."""
    target = Path(path)
    draft = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        yield draft
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_film(
    path: str | Path,
    pixels_THWC: NDArray[np.uint8],
    fps: float,
    samples: NDArray[np.int16] | None = None,
    sample_rate_hz: int = 16000,
) -> None:
    """Writes an mp4 film.

    Args:
        path: where to; an existing file is replaced.
        pixels_THWC: uint8 (T, H, W, 3), red-green-blue.
        fps: frames per second.
        samples: int16 (N,), mono sound, or None for a silent film.
        sample_rate_hz: of the samples; one that AAC knows.

    Raises:
        ValueError: pixels or samples of another shape or type.
        OSError: the file cannot be written.
    """
    if pixels_THWC.dtype != np.uint8 or pixels_THWC.ndim != 4 or pixels_THWC.shape[3] != 3 or not len(pixels_THWC):
        raise ValueError(f"pixels must be uint8 (T, H, W, 3); got {pixels_THWC.dtype} {pixels_THWC.shape}")
    if samples is not None and (samples.dtype != np.int16 or samples.ndim != 1):
        raise ValueError(f"samples must be int16 (N,); got {samples.dtype} {samples.shape}")
    with appearing(path) as draft, av.open(str(draft), mode="w", format="mp4") as container:
        picture = _picture_stream(container, pixels_THWC.shape[1], pixels_THWC.shape[2], fps)
        sound = None if samples is None else _sound_stream(container, sample_rate_hz)
        # One thread and one scaler for all frames: setting it up anew costs more than the conversion.
        converter = VideoReformatter()
        for frame_HWC in pixels_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(picture.encode(converter.reformat(frame, format=picture.pix_fmt, threads=1)))
        container.mux(picture.encode(None))
        if sound is not None and samples is not None:
            for start in range(0, len(samples), _AAC_BLOCK_SAMPLES):
                container.mux(sound.encode(_sound_frame(samples, start, sample_rate_hz)))
            container.mux(sound.encode(None))


def write_sound(path: str | Path, samples: NDArray[np.int16], sample_rate_hz: int) -> None:
    """Writes mono PCM as a wav file.

    Raises:
        ValueError: samples of another shape or type.
        OSError: the file cannot be written.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"samples must be int16 (N,); got {samples.dtype} {samples.shape}")
    with appearing(path) as draft, wave.open(str(draft), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate_hz)
        sound.writeframes(samples.astype("<i2").tobytes())


def _picture_stream(container: av.container.OutputContainer, height: int, width: int, fps: float) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=dict(_X264))
    stream.width, stream.height = width, height
    # Chroma at half the size needs even sides.
    stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    return stream


def _sound_stream(container: av.container.OutputContainer, sample_rate_hz: int) -> av.AudioStream:
    stream = container.add_stream("aac", rate=sample_rate_hz, options=dict(_AAC), layout="mono")
    stream.bit_rate = _AAC_BITS_PER_SECOND
    return stream


def _sound_frame(samples: NDArray[np.int16], start: int, sample_rate_hz: int) -> av.AudioFrame:
    block = samples[start : start + _AAC_BLOCK_SAMPLES].astype(np.float32) / 32768.0
    frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
    frame.sample_rate = sample_rate_hz
    frame.time_base = Fraction(1, sample_rate_hz)
    frame.pts = start
    return frame
