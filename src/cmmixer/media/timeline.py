"""Places clips in a video and frames in a clip. Plain arithmetic on seconds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cmmixer.types import Span

# Containers round: a "ten-second" video at 29.97 frames per second lasts 9.976 s. A video that misses a clip's length by
# no more than this still counts as long enough; its last frame is held and its audio zero-padded.
SLACK_SECONDS = 0.05


def frame_instants(span: Span, frames: int) -> NDArray[np.float64]:
    """Returns the centers of `frames` equal cells of a span.

    Returns:
        float64 (T,), seconds from the start of the video: `start + (k + 1/2) x duration / T`.

    Raises:
        ValueError: `frames` is below 1.
    """
    if frames < 1:
        raise ValueError(f"frames must be 1 or more; got {frames}")
    cells = np.arange(frames, dtype=np.float64) + 0.5
    return np.asarray(span.start_seconds + cells * (span.duration_seconds / frames), dtype=np.float64)


def clip_spans(
    duration_seconds: float,
    clip_seconds: float,
    stride_seconds: float,
    *,
    cover_end: bool = False,
    keep_short: bool = False,
) -> list[Span]:
    """Returns the clips of one video, which start at 0, stride, 2 x stride, ...; all are of full length unless `keep_short`.

    Args:
        duration_seconds: length of the video.
        clip_seconds: length of a clip.
        stride_seconds: distance between the starts of two clips.
        cover_end: add a last clip that ends with the video, if the others leave a remainder.
        keep_short: return the one span [0, duration) for a video shorter than a clip, instead of none.

    Raises:
        ValueError: a length or a stride that is not positive.
    """
    if clip_seconds <= 0 or stride_seconds <= 0:
        raise ValueError(f"clip length and stride must be positive; got {clip_seconds} s every {stride_seconds} s")
    if not duration_seconds > 0:
        return []
    if duration_seconds < clip_seconds - SLACK_SECONDS:
        return [Span(0.0, duration_seconds)] if keep_short else []
    last_start = max(0.0, duration_seconds - clip_seconds)
    count = math.floor((last_start + SLACK_SECONDS) / stride_seconds) + 1
    starts = [number * stride_seconds for number in range(count)]
    if cover_end and last_start > starts[-1] + SLACK_SECONDS:
        starts.append(last_start)
    return [Span(start, start + clip_seconds) for start in starts]


def even_spans(duration_seconds: float, clip_seconds: float, count: int) -> list[Span]:
    """Returns `count` clips spaced evenly from a video's start to its end, overlapping if it is short.

    This is the multi-clip test protocol of networks trained on Kinetics (Non-local Neural Networks, arXiv 1711.07971, section
    4.1: ten clips sampled evenly along the video). A video no longer than a clip gives one span, [0, duration).

    Raises:
        ValueError: a length that is not positive, or `count` below 1.
    """
    if clip_seconds <= 0 or count < 1:
        raise ValueError(f"clip length must be positive and count 1 or more; got {count} clips of {clip_seconds} s")
    if not duration_seconds > 0:
        return []
    spare_seconds = duration_seconds - clip_seconds
    if spare_seconds <= SLACK_SECONDS:
        return [Span(0.0, duration_seconds if spare_seconds < -SLACK_SECONDS else clip_seconds)]
    if count == 1:
        return [Span(spare_seconds / 2, spare_seconds / 2 + clip_seconds)]
    starts = (number * spare_seconds / (count - 1) for number in range(count))
    return [Span(start, start + clip_seconds) for start in starts]
