"""The sequence score by its formula, in loops over frames and values."""

from __future__ import annotations

from collections.abc import Sequence


def mean_frame(frames: Sequence[Sequence[float]]) -> list[float]:
    return [sum(frame[axis] for frame in frames) / len(frames) for axis in range(len(frames[0]))]


def timing(video: Sequence[Sequence[float]], audio: Sequence[Sequence[float]]) -> float:
    """1/T sum over t of <v_t - mean(v), a_t - mean(a)>."""
    video_mean, audio_mean, total = mean_frame(video), mean_frame(audio), 0.0
    for video_frame, audio_frame in zip(video, audio, strict=True):
        for axis, (x, y) in enumerate(zip(video_frame, audio_frame, strict=True)):
            total += (x - video_mean[axis]) * (y - audio_mean[axis])
    return total / len(video)


def sequence_score(cosine: float, video: Sequence[Sequence[float]], audio: Sequence[Sequence[float]]) -> float:
    return cosine + 2.0 * timing(video, audio)
