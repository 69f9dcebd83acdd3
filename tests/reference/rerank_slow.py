"""The sequence score as it is written down, in loops over frames and values."""

from __future__ import annotations

from collections.abc import Sequence


def mean_frame(frames: Sequence[Sequence[float]]) -> list[float]:
    return [sum(frame[place] for frame in frames) / len(frames) for place in range(len(frames[0]))]


def timing(video: Sequence[Sequence[float]], audio: Sequence[Sequence[float]]) -> float:
    """1/T sum over t of <v_t - mean(v), a_t - mean(a)>."""
    video_mean, audio_mean, total = mean_frame(video), mean_frame(audio), 0.0
    for seen, heard in zip(video, audio, strict=True):
        for place, (one, other) in enumerate(zip(seen, heard, strict=True)):
            total += (one - video_mean[place]) * (other - audio_mean[place])
    return total / len(video)


def sequence_score(cosine: float, video: Sequence[Sequence[float]], audio: Sequence[Sequence[float]]) -> float:
    return cosine + 2.0 * timing(video, audio)
