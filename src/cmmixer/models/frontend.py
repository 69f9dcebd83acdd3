"""The front end: turns decoded media into model inputs, which are normalized frames and normalized mel spectrograms.

Inference calls `video` and `audio`. Training calls the single steps and augments between them.

Letters: B clips, T frames, C = 3 channels, H x W pixels, N samples of an audio window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmmixer.config.clip import ClipSettings
from cmmixer.media.mel import MelSpectrogram
from cmmixer.types import Statistics


class FrontEnd(nn.Module):
    """Turns uint8 frames and int16 audio windows into normalized float images. It has no weights.

    Args:
        clip: sizes of the spectrogram.
        statistics: means and standard deviations to normalize with.
    """

    frame_scale: Tensor
    frame_shift: Tensor

    def __init__(self, clip: ClipSettings, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.mel = MelSpectrogram(clip)
        mean = torch.tensor(statistics.frame_mean, dtype=torch.float64).reshape(3, 1, 1)
        std = torch.tensor(statistics.frame_std, dtype=torch.float64).reshape(3, 1, 1)
        # (x - mean) / std as one fused multiply-add. Not saved with the weights: the run's metadata holds the statistics.
        self.register_buffer("frame_scale", (1.0 / std).float(), persistent=False)
        self.register_buffer("frame_shift", (-mean / std).float(), persistent=False)

    def video(self, pixels_BTCHW: Tensor) -> Tensor:
        """uint8 [B, T, 3, H, W] -> float32, normalized per color channel."""
        return self.normalize_video(self.pixels01(pixels_BTCHW))

    def audio(self, windows_BTN: Tensor) -> Tensor:
        """int16 [B, T, N] -> float32 [B, T, 3, H, W], normalized; the three channels share memory."""
        return self.normalize_audio(self.decibels(windows_BTN))

    def pixels01(self, pixels_BTCHW: Tensor) -> Tensor:
        """uint8 [B, T, 3, H, W] -> float32 in [0, 1]."""
        return pixels_BTCHW.to(torch.float32).mul_(1.0 / 255.0)

    def decibels(self, windows_BTN: Tensor) -> Tensor:
        """int16, or float with full scale 1, [B, T, N] -> log-mel spectrogram [B, T, 1, H, W] in decibels."""
        mel_BT1HW: Tensor = self.mel(windows_BTN)
        return mel_BT1HW

    def normalize_video(self, pixels_BTCHW: Tensor) -> Tensor:
        """Float in [0, 1] -> mean 0, standard deviation 1 over the training clips, per color channel."""
        return torch.addcmul(self.frame_shift, pixels_BTCHW, self.frame_scale)

    def normalize_audio(self, decibels_BT1HW: Tensor) -> Tensor:
        """[B, T, 1, H, W] decibels -> [B, T, 3, H, W], mean 0, standard deviation 1 over the training clips."""
        normalized_BT1HW = (decibels_BT1HW - self.statistics.mel_mean) / self.statistics.mel_std
        return normalized_BT1HW.expand(-1, -1, 3, -1, -1)
