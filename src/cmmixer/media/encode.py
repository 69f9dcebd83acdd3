"""Writes media files: H.264 + AAC in mp4, PCM in wav. A file appears under its name only when it is complete."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cmmixer.storage.files import atomic_path

# Small, fast and close enough to the pixels for synthetic videos.
_X264 = {"preset": "ultrafast", "crf": "20", "threads": "1"}
_AAC = {"aac_coder": "fast"}
_AAC_BITS_PER_SECOND = 96_000
_AAC_BLOCK_SAMPLES = 1024


def write_video(
    path: str | Path,
    pixels_THWC: NDArray[np.uint8],
    fps: float,
    samples: NDArray[np.int16] | None = None,
    sample_rate_hz: int = 16000,
) -> None:
    """Writes an mp4 video.

    Args:
        path: file to write; an existing one is replaced.
        pixels_THWC: uint8 (T, H, W, 3), red-green-blue.
        fps: frames per second.
        samples: int16 (N,), mono audio; None for a video without audio.
        sample_rate_hz: of the samples; one that AAC supports.

    Raises:
        ValueError: wrong shape or dtype of pixels or samples, or an unsupported rate.
        OSError: the file cannot be written.
    """
    if pixels_THWC.dtype != np.uint8 or pixels_THWC.ndim != 4 or pixels_THWC.shape[3] != 3 or not len(pixels_THWC):
        raise ValueError(f"pixels must be uint8 (T, H, W, 3); got {pixels_THWC.dtype} {pixels_THWC.shape}")
    if samples is not None:
        _check_samples(samples)
    with atomic_path(path) as temporary, av.open(str(temporary), mode="w", format="mp4") as container:
        video = _add_video_stream(container, pixels_THWC.shape[1], pixels_THWC.shape[2], fps)
        audio = None if samples is None else _add_audio_stream(container, sample_rate_hz)
        # One thread and one scaler for all frames: setting one up costs more than the conversion.
        converter = VideoReformatter()
        for frame_HWC in pixels_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(video.encode(converter.reformat(frame, format=video.pix_fmt, threads=1)))
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            for start in range(0, len(samples), _AAC_BLOCK_SAMPLES):
                container.mux(audio.encode(_audio_frame(samples, start, sample_rate_hz)))
            container.mux(audio.encode(None))


def write_audio(path: str | Path, samples: NDArray[np.int16], sample_rate_hz: int) -> None:
    """Writes mono PCM as a wav file.

    Raises:
        ValueError: wrong shape or dtype of samples.
        OSError: the file cannot be written.
    """
    _check_samples(samples)
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def _check_samples(samples: NDArray[np.int16]) -> None:
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"samples must be int16 (N,); got {samples.dtype} {samples.shape}")


def _add_video_stream(container: av.container.OutputContainer, height: int, width: int, fps: float) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=dict(_X264))
    stream.width, stream.height = width, height
    # Chroma at half the size needs even sides.
    stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    return stream


def _add_audio_stream(container: av.container.OutputContainer, sample_rate_hz: int) -> av.AudioStream:
    stream = container.add_stream("aac", rate=sample_rate_hz, options=dict(_AAC), layout="mono")
    stream.bit_rate = _AAC_BITS_PER_SECOND
    return stream


def _audio_frame(samples: NDArray[np.int16], start: int, sample_rate_hz: int) -> av.AudioFrame:
    block = samples[start : start + _AAC_BLOCK_SAMPLES].astype(np.float32) / 32768.0
    frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
    frame.sample_rate = sample_rate_hz
    frame.time_base = Fraction(1, sample_rate_hz)
    frame.pts = start
    return frame
