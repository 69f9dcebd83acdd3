"""Synthetic clips as arrays, without any codec: for studies with very many clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.media.synthetic.draw import draw_frames
from cmmixer.media.synthetic.hear import hear_film
from cmmixer.media.synthetic.world import FilmPlan, plan_film
from cmmixer.media.timeline import frame_instants
from cmmixer.types import Span


@dataclass(frozen=True)
class SyntheticClips:
    """One clip per film.

    Attributes:
        video_NTCHW: uint8 pictures.
        audio_NTS: int16 sound windows of S samples.
        labels: shape of the body that sounds, N class names.
        causes: N descriptions of what is seen and heard.
    """

    video_NTCHW: NDArray[np.uint8]
    audio_NTS: NDArray[np.int16]
    labels: list[str]
    causes: list[dict[str, Any]]


def synthetic_arrays(
    count: int,
    clip: ClipSettings,
    *,
    seed: int,
    difficulty: str,
    first: int = 0,
    twins: bool = False,
    twin_ahead_seconds: float | None = None,
    advance: Callable[[int], None] | None = None,
) -> SyntheticClips:
    """Renders films `first` to `first + count` of a seed, only at the clip's instants; each film is one clip long.

    Args:
        count: how many films.
        clip: geometry.
        seed: films of different seeds share nothing.
        difficulty: easy, medium or hard.
        first: number of the first film; a film does not depend on how many others are made.
        twins: films 2k and 2k + 1 differ in their timing only.
        twin_ahead_seconds: by how much; see `world.plan_film`.
        advance: called with 1 after every film.

    Raises:
        SettingsError: an unknown difficulty.
    """
    video = np.empty((count, clip.frames, 3, clip.height, clip.width), np.uint8)
    audio = np.empty((count, clip.frames, clip.window_samples), np.int16)
    plans: list[FilmPlan] = []
    for row in range(count):
        plan = plan_film(seed, first + row, difficulty, twins=twins, twin_ahead_seconds=twin_ahead_seconds)
        video[row], audio[row] = render_clip(plan, clip)
        plans.append(plan)
        if advance is not None:
            advance(1)
    return SyntheticClips(video, audio, [plan.label for plan in plans], [plan.causes.as_dict() for plan in plans])


def render_clip(plan: FilmPlan, clip: ClipSettings) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Pictures (T, 3, H, W) and sound windows (T, S) of a film that is one clip long."""
    instants = frame_instants(Span(0.0, clip.clip_seconds), clip.frames)
    sound = hear_film(plan, clip.clip_seconds, clip.sample_rate_hz)
    length = clip.window_samples
    windows = np.zeros((clip.frames, length), np.int16)
    for row, instant in enumerate(instants):
        start = round((float(instant) - clip.window_seconds / 2) * clip.sample_rate_hz)
        part = sound[max(0, start) : max(0, start + length)]
        offset = max(0, -start)
        windows[row, offset : offset + len(part)] = part
    return draw_frames(plan, instants, clip.height, clip.width), windows
