"""A batch of clips becomes standardised pictures: each modality through its own augmentation, on the device.

Every draw of a training step comes from (seed, step), so a resumed run draws what the uninterrupted one would have.

Draws are made for the whole batch over all processes and each process takes its rows: one process with 16 clips and two
with 8 see the same masks and mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmmixer.config import AugmentSettings, ClipSettings
from cmmixer.data.augment import PictureAugment, PictureDraw, SoundAugment, SoundDraw
from cmmixer.models.frontend import FrontEnd
from cmmixer.types import Batch, Statistics


@dataclass(frozen=True)
class Chance:
    """The generators of one step.

    Attributes:
        cpu: for draws that are made on the host.
        device: for draws that are made where the batch lies.
        batch: clips of the step over all processes.
        rows: which of them are this process's.
    """

    cpu: torch.Generator
    device: torch.Generator
    batch: int
    rows: slice


def chance_of_step(seed: int, step: int, *, device: torch.device, rank: int, world: int, batch_size: int) -> Chance:
    """The chance of one batch.

    Args:
        seed: the run's.
        step: number of the batch, from 0.
        device: where the batch lies.
        rank: this process.
        world: number of processes.
        batch_size: clips per process.
    """
    host_seed, device_seed = (int(value) for value in np.random.SeedSequence([seed, step]).generate_state(2, np.uint64))
    # torch takes a signed 64-bit seed.
    cpu = torch.Generator().manual_seed(host_seed >> 1)
    on_device = torch.Generator(device=device).manual_seed(device_seed >> 1)
    return Chance(cpu, on_device, batch_size * world, slice(rank * batch_size, (rank + 1) * batch_size))


class TrainingInputs:
    """uint8 frames and int16 windows -> augmented, standardised video and mel pictures, each float [B, T, 3, H, W]."""

    def __init__(self, clip: ClipSettings, statistics: Statistics, augment: AugmentSettings) -> None:
        self.frontend = FrontEnd(clip, statistics)
        self.picture = PictureAugment(augment, clip)
        self.sound = SoundAugment(augment, clip)

    def __call__(self, batch: Batch, chance: Chance) -> tuple[Tensor, Tensor]:
        """The batch's pictures under this step's draws."""
        video, audio = self.each(batch, chance, ("video", "audio"))
        return video, audio

    def each(self, batch: Batch, chance: Chance, senses: Sequence[str]) -> list[Tensor]:
        """The pictures of the senses asked for, in that order; the draws are those of both."""
        self.frontend.to(batch.video_BTCHW.device)
        picture_draw = self.picture.draw(chance.batch, chance.cpu).rows(chance.rows)
        sound_draw = self.sound.draw(chance.batch, chance.cpu).rows(chance.rows)
        make = {
            "video": lambda: self._video(batch.video_BTCHW, picture_draw),
            "audio": lambda: self._audio(batch.audio_BTN, sound_draw),
        }
        return [make[sense]() for sense in senses]

    def _video(self, pixels_BTCHW: Tensor, draw: PictureDraw) -> Tensor:
        return self.frontend.standardise_video(self.picture.apply(self.frontend.pixels01(pixels_BTCHW), draw))

    def _audio(self, windows_BTN: Tensor, draw: SoundDraw) -> Tensor:
        decibels = self.frontend.decibels(self.sound.apply_waveform(windows_BTN, draw))
        return self.frontend.standardise_audio(self.sound.apply_mel(decibels, draw))
