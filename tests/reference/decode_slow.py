"""Frames and audio of a file by decoding all of it in order: no seeking, no windows, no shared passes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def start_of(path: Path) -> float:
    """The container's start in seconds."""
    with av.open(str(path)) as container:
        return (container.start_time or 0) / 1_000_000


def frames_on_screen(path: Path, instants: list[float]) -> list[NDArray[np.uint8]]:
    """Stored pixels (h, w, 3) of the last frame that begins at or before each instant, or of the first frame of all."""
    start = start_of(path)
    found: list[NDArray[np.uint8] | None] = [None] * len(instants)
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            begins = float(frame.pts * frame.time_base) - start
            pixels = None
            for k, instant in enumerate(instants):
                if found[k] is None or begins <= instant + 1e-6:
                    pixels = frame.to_ndarray(format="rgb24") if pixels is None else pixels
                    found[k] = pixels
    return [pixels for pixels in found if pixels is not None]


def whole_audio(path: Path, seconds: float) -> tuple[NDArray[np.float64], int]:
    """Mono samples at the file's own rate from time 0 on, each frame written where its timestamp says."""
    start = start_of(path)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        mono_N = np.zeros(int(seconds * rate))
        expected = None
        for frame in container.decode(stream):
            samples = frame.to_ndarray().astype(np.float64)
            if frame.format.name in ("s16", "s16p"):
                samples = samples / 32768.0
            if not frame.format.is_planar:
                samples = samples.reshape(-1, len(frame.layout.channels)).T
            mono = samples.mean(axis=0)
            first = round((float(frame.pts * frame.time_base) - start) * rate)
            # Timestamps are rounded: frames that nearly touch are adjacent.
            if expected is not None and abs(first - expected) < 0.02 * rate:
                first = expected
            expected = first + len(mono)
            for k in range(len(mono)):
                if 0 <= first + k < len(mono_N):
                    mono_N[first + k] = mono[k]
    return mono_N, rate
