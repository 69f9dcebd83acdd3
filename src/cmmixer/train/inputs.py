"""A batch of clips becomes standardised pictures: each modality through its own augmentation, on the device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cmmixer.config import AugmentSettings, ClipSettings
from cmmixer.data.augment import PictureAugment, PictureDraw, SoundAugment, SoundDraw
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
