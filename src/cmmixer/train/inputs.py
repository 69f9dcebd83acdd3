"""A batch of clips becomes standardised pictures: each modality through its own augmentation, on the device."""

from __future__ import annotations

from torch import Tensor

from cmmixer.config import AugmentSettings, ClipSettings
from cmmixer.data.augment import PictureAugment, SoundAugment
from cmmixer.models.frontend import FrontEnd
from cmmixer.train.chance import Chance
from cmmixer.types import Batch, Statistics


class TrainingInputs:
    """uint8 frames and int16 windows -> augmented, standardised video and mel pictures, each float [B, T, 3, H, W]."""

    def __init__(self, clip: ClipSettings, statistics: Statistics, augment: AugmentSettings) -> None:
        self.frontend = FrontEnd(clip, statistics)
        self.picture = PictureAugment(augment, clip)
        self.sound = SoundAugment(augment, clip)

    def __call__(self, batch: Batch, chance: Chance) -> tuple[Tensor, Tensor]:
        """The batch's pictures under this step's draws."""
        self.frontend.to(batch.video_BTCHW.device)
        picture_draw = self.picture.draw(chance.batch, chance.cpu).rows(chance.rows)
        sound_draw = self.sound.draw(chance.batch, chance.cpu).rows(chance.rows)
        pixels = self.picture.apply(self.frontend.pixels01(batch.video_BTCHW), picture_draw)
        windows = self.sound.apply_waveform(batch.audio_BTN, sound_draw)
        decibels = self.sound.apply_mel(self.frontend.decibels(windows), sound_draw)
        return self.frontend.standardise_video(pixels), self.frontend.standardise_audio(decibels)
