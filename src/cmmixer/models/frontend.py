"""From decoded media to what the networks eat: standardised frames and standardised mel pictures.

Letters: B clips, T frames, C = 3 channels, H x W pixels, N samples of a sound window. Training puts its augmentations
between the steps; inference calls `video` and `audio`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmmixer.config.clip import ClipSettings
from cmmixer.media.mel import MelPictures
from cmmixer.types import Statistics


class FrontEnd(nn.Module):
    """uint8 frames and int16 sound windows -> standardised float pictures. It has no weights of its own."""

    picture_scale: Tensor
    picture_shift: Tensor

    def __init__(self, clip: ClipSettings, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.mel = MelPictures(clip)
        mean = torch.tensor(statistics.picture_mean, dtype=torch.float64).reshape(3, 1, 1)
        std = torch.tensor(statistics.picture_std, dtype=torch.float64).reshape(3, 1, 1)
        # (x - mean) / std as one multiplication and one addition. The card keeps the statistics, not the weights file.
        self.register_buffer("picture_scale", (1.0 / std).float(), persistent=False)
        self.register_buffer("picture_shift", (-mean / std).float(), persistent=False)

    def video(self, pixels_BTCHW: Tensor) -> Tensor:
        """uint8 [B, T, 3, H, W] -> float32, standardised per colour channel."""
        return self.standardise_video(self.pixels01(pixels_BTCHW))

    def audio(self, windows_BTN: Tensor) -> Tensor:
        """int16 [B, T, N] -> float32 [B, T, 3, H, W], standardised; the three channels are one memory."""
        return self.standardise_audio(self.decibels(windows_BTN))

    def pixels01(self, pixels_BTCHW: Tensor) -> Tensor:
        """uint8 [B, T, 3, H, W] -> float32 in [0, 1]."""
        return pixels_BTCHW.to(torch.float32).mul_(1.0 / 255.0)

    def decibels(self, windows_BTN: Tensor) -> Tensor:
        """int16, or float of full scale 1, [B, T, N] -> log-mel [B, T, 1, H, W] in decibels."""
        pictures: Tensor = self.mel(windows_BTN)
        return pictures

    def standardise_video(self, pixels_BTCHW: Tensor) -> Tensor:
        """Float in [0, 1] -> mean 0, spread 1 over the training clips, per colour channel."""
        return torch.addcmul(self.picture_shift, pixels_BTCHW, self.picture_scale)

    def standardise_audio(self, decibels_BT1HW: Tensor) -> Tensor:
        """[B, T, 1, H, W] decibels -> [B, T, 3, H, W], mean 0, spread 1 over the training clips."""
        standard = (decibels_BT1HW - self.statistics.mel_mean) / self.statistics.mel_std
        return standard.expand(-1, -1, 3, -1, -1)
