"""Small videos whose frames can be distinguished, written by the tests that need them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def counting_pixels(frames: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Gray frames, each a little brighter than the last; `number_of` reads the number back, modulo 28."""
    levels = 16 + 8 * (np.arange(frames) % 28)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)


def number_of(pixels_HWC: NDArray[np.uint8]) -> int:
    """The number of a frame of `counting_pixels`, modulo 28."""
    return round((float(pixels_HWC.mean()) - 16) / 8)


def tone(seconds: float, rate: int, hz: float = 440.0) -> NDArray[np.int16]:
    """int16 (N,): a sine of amplitude 12,000."""
    times = np.arange(round(seconds * rate)) / rate
    return (12000 * np.sin(2 * np.pi * hz * times)).astype(np.int16)


def write(
    path: Path,
    *,
    pixels: NDArray[np.uint8] | None = None,
    times: list[float] | None = None,
    fps: int = 10,
    keys: int = 5,
    samples: NDArray[np.int16] | None = None,
    rate: int = 16000,
    audio_start_seconds: float = 0.0,
    codecs: tuple[str, str] = ("libx264", "aac"),
    layout: str = "mono",
    aspect: Fraction | None = None,
    turn: float | None = None,
) -> Path:
    """Writes a video or a sound with chosen timestamps; the container follows from the suffix."""
    # Without scene detection, exactly every `keys`-th frame is a key frame.
    options = {"preset": "veryfast", "crf": "4", "sc_threshold": "0"} if codecs[0] == "libx264" else {}
    with av.open(str(path), "w") as container:
        if pixels is not None:
            video = container.add_stream(codecs[0], rate=fps, options=options)
            video.height, video.width = pixels.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.gop_size = keys
            video.codec_context.time_base = Fraction(1, 1000)
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if turn is not None:
                video.set_display_rotation(turn)
        if samples is not None:
            audio = container.add_stream(codecs[1], rate=rate, layout=layout)
        if pixels is not None:
            for number, image in enumerate(pixels):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                seconds = number / fps if times is None else times[number]
                frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if samples is not None:
            channels = len(av.AudioLayout(layout).channels)
            for begin in range(0, len(samples), 1024):
                block = samples[begin : begin + 1024]
                frame = av.AudioFrame.from_ndarray(np.repeat(block, channels)[None], format="s16", layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = begin + round(audio_start_seconds * rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def long_video(path: Path, seconds: int) -> Path:
    """Writes a small file of long duration: one frame per minute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for minute in range(seconds // 60 + 1):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = minute * 60
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
