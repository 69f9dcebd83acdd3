"""Small clips, geometries and untrained runs that many tests use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer import checkpoint
from cmmixer.config import ClipSettings, ModelSettings, preset
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError, MediaError
from cmmixer.media.timeline import frame_instants
from cmmixer.types import AudioWindows, Clip, Frames, Span, Statistics

NANO = ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)
PICO = ClipSettings(frames=2, height=32, width=32, clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000)


class ArrayClips:
    """A `ClipDataset` of arrays, for tests without codecs.

    Args:
        video_NTCHW: uint8 frames, an array or a tensor.
        audio_NTS: int16 audio windows, an array or a tensor.
        ids: the clips' ids; default "0", "1", ...
        labels: their class names; default: none.
        sources: the videos they were cut from; default: their ids.
        clip_seconds: length of a clip.
        sample_rate_hz: of the audio windows.

    Raises:
        DataError: shapes, types or lengths that do not fit together.
    """

    def __init__(
        self,
        video_NTCHW: Any,
        audio_NTS: Any,
        ids: Sequence[str] | None = None,
        labels: Sequence[str | int | None] | None = None,
        *,
        sources: Sequence[str] | None = None,
        clip_seconds: float = 4.0,
        sample_rate_hz: int = 16000,
    ) -> None:
        self.video_NTCHW, self.audio_NTS = np.asarray(video_NTCHW), np.asarray(audio_NTS)
        video, audio = self.video_NTCHW, self.audio_NTS
        if video.dtype != np.uint8 or video.ndim != 5 or video.shape[2] != 3:
            raise DataError(f"frames must be uint8 (N, T, 3, H, W); got {video.dtype} {video.shape}")
        if audio.dtype != np.int16 or audio.ndim != 3 or audio.shape[:2] != video.shape[:2]:
            raise DataError(
                f"audio windows must be int16 {video.shape[:2]} + (samples,); got {audio.dtype} {audio.shape}"
            )
        self.ids = [str(number) for number in range(len(video))] if ids is None else list(ids)
        self.labels = (
            [None] * len(video) if labels is None else [None if label is None else str(label) for label in labels]
        )
        self.sources = list(self.ids) if sources is None else list(sources)
        for what, values in (("ids", self.ids), ("labels", self.labels), ("sources", self.sources)):
            if len(values) != len(video):
                raise DataError(f"{len(video)} clips need {len(video)} {what}; got {len(values)}")
        self.skips = SkipReport()
        self.span, self.sample_rate_hz = Span(0.0, clip_seconds), sample_rate_hz

    def __len__(self) -> int:
        return len(self.video_NTCHW)

    def __getitem__(self, index: int) -> Clip:
        """Returns one clip; its arrays are views."""
        times_T = frame_instants(self.span, self.video_NTCHW.shape[1])
        return Clip(
            id=self.ids[index],
            source=self.sources[index],
            label=self.labels[index],
            span=self.span,
            frames=Frames(self.video_NTCHW[index].transpose(0, 2, 3, 1), times_T),
            sound=AudioWindows(self.audio_NTS[index], times_T, self.sample_rate_hz),
        )

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        """Returns clips in the order of `indices`."""
        return [self[index] for index in indices]


def random_clips(count: int, clip: ClipSettings = PICO, seed: int = 0) -> ArrayClips:
    """Clips of noise whose loudness follows the brightness, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.1, 0.9, (count, 1, 1, 1, 1))
    pixels = rng.uniform(0, 1, (count, clip.frames, clip.height, clip.width, 3)) * level
    samples = rng.normal(size=(count, clip.frames, clip.window_samples)) * level[..., 0, 0] * 3000
    return ArrayClips((pixels * 255).astype(np.uint8).transpose(0, 1, 4, 2, 3), samples.astype(np.int16))


class FaultyClips(ArrayClips):
    """Clips of noise, some of which cannot be decoded; counts how often each is read.

    Args:
        count: number of clips.
        broken: indices of those that cannot be decoded.
        per_video: clips of each video.
    """

    def __init__(self, count: int, broken: set[int], per_video: int = 1) -> None:
        clips = random_clips(count)
        sources = [f"video {number // per_video}" for number in range(count)]
        super().__init__(clips.video_NTCHW, clips.audio_NTS, sources=sources)
        self.broken = broken
        self.reads: Counter[int] = Counter()

    def read(self, indices: Sequence[int]) -> list[Clip | MediaError]:
        self.reads.update(indices)
        error = MediaError("broken.mp4", "unreadable", "damaged")
        return [error if index in self.broken else self[index] for index in indices]


def untrained_run(
    folder: Path,
    clip: ClipSettings,
    *,
    model: ModelSettings | None = None,
    embed_dim: int = 16,
    mel_mean: float = -50.0,
    frame_level: bool = False,
) -> Path:
    """Writes an untrained retriever as the folder of a run; returns the folder."""
    metadata = checkpoint.Metadata(
        kind="retriever",
        model=model or preset("nano").model,
        clip=clip,
        statistics=Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), mel_mean, 20.0, clips=1),
        options={"embed_dim": embed_dim, "frame_level": frame_level},
        settings={},
    )
    checkpoint.save(folder, metadata, checkpoint.build(metadata).state_dict(), keep=1)
    return folder
