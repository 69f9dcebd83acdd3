"""Means and standard deviations of frames and of mel spectrograms, for normalizing the model inputs."""

from __future__ import annotations

import torch

from cmmixer.config.clip import ClipSettings
from cmmixer.data.dataset import ClipDataset
from cmmixer.data.loader import make_loader
from cmmixer.media.mel import MelSpectrogram
from cmmixer.types import Batch, Statistics


def measure_statistics(dataset: ClipDataset, clip: ClipSettings, *, limit: int = 256, seed: int = 0) -> Statistics:
    """Measures mean and standard deviation of pixels (scaled to [0, 1]) and of log-mel spectrograms (in decibels).

    Args:
        dataset: training clips.
        clip: their geometry.
        limit: number of clips to measure at most, drawn at random.
        seed: of that draw.
    """
    loader = make_loader(dataset, batch_size=16, seed=seed, drop_last=False)
    mel_spectrogram = MelSpectrogram(clip)
    pixels, decibels, clips = _RunningMoments(3), _RunningMoments(1), 0
    for batch in loader:
        batch = Batch(batch.ids, batch.labels, batch.video_BTCHW[: limit - clips], batch.audio_BTN[: limit - clips])
        pixels.add(batch.video_BTCHW.movedim(2, 0).flatten(1).double() / 255)
        with torch.no_grad():
            decibels.add(mel_spectrogram(batch.audio_BTN).flatten().unsqueeze(0).double())
        clips += len(batch.video_BTCHW)
        if clips >= limit:
            break
    red, green, blue = zip(pixels.mean.tolist(), pixels.std.tolist(), strict=True)
    return Statistics(
        frame_mean=(red[0], green[0], blue[0]),
        frame_std=(red[1], green[1], blue[1]),
        mel_mean=decibels.mean.item(),
        mel_std=decibels.std.item(),
        clips=clips,
    )


class _RunningMoments:
    """Mean and standard deviation of R rows of numbers that arrive in parts, in float64."""

    def __init__(self, rows: int) -> None:
        self.count = 0
        self.total = torch.zeros(rows, dtype=torch.float64)
        self.squares = torch.zeros(rows, dtype=torch.float64)

    def add(self, values_RN: torch.Tensor) -> None:
        self.count += values_RN.shape[1]
        self.total += values_RN.sum(1)
        self.squares += values_RN.square().sum(1)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.count

    @property
    def std(self) -> torch.Tensor:
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()
