"""Turns decoded audio frames into mono samples at a given rate, each at its place in time.

Frames are mixed down to mono at their own rate and written into a buffer by their timestamps; gaps stay zero. Then the whole
buffer is resampled at once. It begins where both rates have a sample at the same instant, so a window cut from a long file
has the same samples as that part of the file decoded as a whole.

Letters: C channels, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import av
import numpy as np
from numpy.typing import NDArray

from cmmixer.media.container import TimedFrame

# Resampling uses neighboring samples; this margin on either side keeps edge effects out of the result.
_EDGE_SECONDS = 0.02

# Timestamps are rounded (to 1 ms in Matroska); a frame this close to the end of the previous one follows it directly.
JOIN_SECONDS = 0.02

# By default, FFmpeg sums channels when it mixes down to floats: a loud 5.1 track would be clipped later.
_NO_LOUDER = {"rematrix_maxval": "1.0"}


class ChannelMixer:
    """A converter of frames of any layout, format and rate to float samples of one layout and rate.

    Args:
        sample_rate_hz: rate of the output, usually that of the first frame.
        layout: FFmpeg's name of the output's channel layout.
    """

    def __init__(self, sample_rate_hz: int, layout: str = "mono") -> None:
        self._rate = sample_rate_hz
        self._layout = layout
        self._channels = len(av.AudioLayout(layout).channels)
        self._kind: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def mix(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        """Returns the samples of one frame, float32 (C, N); full scale is 1."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            self._kind = kind
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate, options=_NO_LOUDER)
        # Timestamps are handled by the caller; the resampler must not correct for them.
        frame.pts = None
        try:
            return self._push(frame)
        except (av.FFmpegError, ValueError):
            # FFmpeg has no mixing matrix for this layout: take the plain average of its channels.
            self._resampler = av.AudioResampler(format="fltp", rate=self._rate)
            return self._push(frame)

    def _push(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        assert self._resampler is not None
        parts = [np.asarray(part.to_ndarray(), np.float32) for part in self._resampler.resample(frame)]
        samples_CN = np.concatenate([np.zeros((len(parts[0]) if parts else 1, 0), np.float32), *parts], axis=1)
        if len(samples_CN) == self._channels:
            return samples_CN
        return np.repeat(samples_CN.mean(axis=0, keepdims=True), self._channels, axis=0)


def assemble_mono(
    frames: Iterable[TimedFrame], start_seconds: float, end_seconds: float, sample_rate_hz: int
) -> NDArray[np.int16] | None:
    """Returns mono samples of [start, end) at the given rate, with zeros where the frames leave gaps.

    Args:
        frames: in order of time, the first early enough for the codec to have settled by `start_seconds`.
        start_seconds: start of the stretch; a multiple of `1 / sample_rate_hz`.
        end_seconds: end of the stretch, likewise.
        sample_rate_hz: rate of the result.

    Returns:
        int16 (N,), or None if there was no frame at all.
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
    """Mono samples at the stream's own rate, from an instant before `start` that both rates share to a little after `end`."""

    def __init__(self, start_seconds: float, end_seconds: float, own_rate: int, target_rate: int) -> None:
        common = math.gcd(own_rate, target_rate)
        own_step, target_step = own_rate // common, target_rate // common
        steps = math.floor((start_seconds - _EDGE_SECONDS) * common)
        self._own_rate, self._target_rate = own_rate, target_rate
        self._first = steps * own_step
        self._skip = round(start_seconds * target_rate) - steps * target_step
        self._length = round(end_seconds * target_rate) - round(start_seconds * target_rate)
        self._samples = np.zeros(math.ceil((end_seconds + _EDGE_SECONDS) * own_rate) - self._first, np.float32)
        self._mixer = ChannelMixer(own_rate)
        self._next: int | None = None

    def add(self, seconds: float, frame: av.AudioFrame) -> bool:
        """Writes one frame into the buffer; returns False once a frame begins after the end."""
        begin = round(seconds * self._own_rate) - self._first
        if self._next is not None and abs(begin - self._next) <= JOIN_SECONDS * self._own_rate:
            begin = self._next
        if begin >= len(self._samples):
            return False
        (samples,) = self._mixer.mix(frame)
        self._next = begin + len(samples)
        if self._next > 0:
            part = samples[max(0, -begin) : max(0, len(self._samples) - begin)]
            self._samples[max(0, begin) : max(0, begin) + len(part)] = part
        return True

    def resampled(self) -> NDArray[np.int16]:
        """Returns the buffer at the target rate, without its margins."""
        samples = resample(self._samples, self._own_rate, self._target_rate)[self._skip : self._skip + self._length]
        return np.pad(samples, (0, self._length - len(samples)))


def resample(samples: NDArray[np.float32], own_rate: int, target_rate: int) -> NDArray[np.int16]:
    """Converts mono float samples to int16 at another rate; sample 0 keeps its instant."""
    if own_rate == target_rate:
        return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype=np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = own_rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=target_rate)
    parts = [
        np.asarray(part.to_ndarray()[0], np.int16) for part in (*resampler.resample(frame), *resampler.resample(None))
    ]
    return np.concatenate(parts)


def loudness_dbfs(samples: NDArray[np.int16]) -> float:
    """Returns the root mean square of int16 samples in dBFS; minus infinity for digital silence."""
    if samples.size == 0:
        return -math.inf
    power = float(np.mean(np.square(samples, dtype=np.float64))) / 32768.0**2
    return 10.0 * math.log10(power) if power > 0 else -math.inf
