"""Decoded sound frames -> mono samples at the wanted rate, each at its own place in time.

Frames are mixed down to mono at their own rate and laid into a buffer by their timestamps (what is missing stays zero),
then the buffer is resampled in one go. The buffer begins where both rates have a sample at the same instant, so a window
of a long film gives the same numbers as the whole film decoded at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import av
import numpy as np
from numpy.typing import NDArray

from cmmixer.media.container import TimedFrame

# Resampling looks at neighbours; this much more on either side than was asked for keeps edges out of the result.
_EDGE_SECONDS = 0.02

# Timestamps are rounded (to 1 ms in Matroska); a frame this close to the end of the one before follows it directly.
JOIN_SECONDS = 0.02


# Left to itself, mixing down to floats adds channels up: a loud 5.1 film would be clipped later.
_NO_LOUDER = {"rematrix_maxval": "1.0"}


class ChannelMixer:
    """Frames of any layout, format and rate -> float samples of one layout at one rate.

    Args:
        sample_rate_hz: rate that is wanted, usually that of the first frame.
        layout: FFmpeg's name of the channels that are wanted.
    """

    def __init__(self, sample_rate_hz: int, layout: str = "mono") -> None:
        self._rate = sample_rate_hz
        self._layout = layout
        self._channels = len(av.AudioLayout(layout).channels)
        self._kind: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def mix(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        """Samples of one frame, float32 (channels, N), full scale is 1."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            self._kind = kind
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate, options=_NO_LOUDER)
        # The resampler would otherwise compare timestamps, which are dealt with here.
        frame.pts = None
        try:
            return self._push(frame)
        except (av.FFmpegError, ValueError):
            # A layout that FFmpeg has no recipe for: the plain average of its channels.
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate)
            return self._push(frame)

    def _push(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        assert self._resampler is not None
        parts = [np.asarray(part.to_ndarray(), np.float32) for part in self._resampler.resample(frame)]
        samples_CN = np.concatenate([np.zeros((len(parts[0]) if parts else 1, 0), np.float32), *parts], axis=1)
        if len(samples_CN) == self._channels:
            return samples_CN
        return np.repeat(samples_CN.mean(axis=0, keepdims=True), self._channels, axis=0)


def lay_out(
    frames: Iterable[TimedFrame], start_seconds: float, end_seconds: float, sample_rate_hz: int
) -> NDArray[np.int16] | None:
    """Mono samples of [start, end) at the wanted rate; zeros where the frames leave gaps.

    Args:
        frames: in order of time, the first early enough for the codec to have settled by `start_seconds`.
        start_seconds: where the stretch begins; a multiple of `1 / sample_rate_hz`.
        end_seconds: where it ends, likewise.
        sample_rate_hz: wanted rate.

    Returns:
        int16 (N,), or None if there was not a single frame.
    """
    buffer: _Buffer | None = None
    for timed in frames:
        assert isinstance(timed.frame, av.AudioFrame)
        if timed.frame.sample_rate <= 0:
            continue
        if buffer is None:
            buffer = _Buffer(start_seconds, end_seconds, timed.frame.sample_rate, sample_rate_hz)
        if not buffer.add(timed.seconds, timed.frame):
            break
    return None if buffer is None else buffer.resampled()


class _Buffer:
    """Mono samples at the stream's own rate, from a common grid point before `start` to a little after `end`."""

    def __init__(self, start_seconds: float, end_seconds: float, own_rate: int, wanted_rate: int) -> None:
        common = math.gcd(own_rate, wanted_rate)
        own_step, wanted_step = own_rate // common, wanted_rate // common
        steps = math.floor((start_seconds - _EDGE_SECONDS) * common)
        self._own_rate, self._wanted_rate = own_rate, wanted_rate
        self._first = steps * own_step
        self._skip = round(start_seconds * wanted_rate) - steps * wanted_step
        self._wanted = round(end_seconds * wanted_rate) - round(start_seconds * wanted_rate)
        self._samples = np.zeros(math.ceil((end_seconds + _EDGE_SECONDS) * own_rate) - self._first, np.float32)
        self._mixer = ChannelMixer(own_rate)
        self._next: int | None = None

    def add(self, seconds: float, frame: av.AudioFrame) -> bool:
        """Lays one frame down; False once a frame begins after the end."""
        place = round(seconds * self._own_rate) - self._first
        if self._next is not None and abs(place - self._next) <= JOIN_SECONDS * self._own_rate:
            place = self._next
        if place >= len(self._samples):
            return False
        (samples,) = self._mixer.mix(frame)
        self._next = place + len(samples)
        if self._next > 0:
            part = samples[max(0, -place) : max(0, len(self._samples) - place)]
            self._samples[max(0, place) : max(0, place) + len(part)] = part
        return True

    def resampled(self) -> NDArray[np.int16]:
        """What was laid down, at the wanted rate, without the extra edges."""
        samples = to_rate(self._samples, self._own_rate, self._wanted_rate)[self._skip : self._skip + self._wanted]
        return np.pad(samples, (0, self._wanted - len(samples)))


def to_rate(samples: NDArray[np.float32], own_rate: int, wanted_rate: int) -> NDArray[np.int16]:
    """Mono float samples at one rate -> int16 at another; sample 0 stays at its instant."""
    if own_rate == wanted_rate:
        return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype=np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = own_rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=wanted_rate)
    parts = [
        np.asarray(part.to_ndarray()[0], np.int16) for part in (*resampler.resample(frame), *resampler.resample(None))
    ]
    return np.concatenate(parts)


def loudness_dbfs(samples: NDArray[np.int16]) -> float:
    """Root mean square of int16 samples in decibels relative to full scale; minus infinity for digital silence."""
    if samples.size == 0:
        return -math.inf
    power = float(np.mean(np.square(samples, dtype=np.float64))) / 32768.0**2
    return 10.0 * math.log10(power) if power > 0 else -math.inf
