"""Augmentations: pictures and sounds each have their own; none of the picture's touches a mel picture."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, within
from cmmixer.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strengths of the augmentations; 0 switches one off. All frames of a clip get the same picture draw.

    Attributes:
        crop_scale_min: smallest area of the random resized crop, as a part of the frame; 1 switches it off
        flip_prob: probability of a left-right flip
        randaugment_ops: how many RandAugment operations each clip gets
        randaugment_magnitude: strength of these operations, 0 to 10
        erase_prob: probability that a random rectangle of the picture is erased
        shift_seconds: the sound is shifted by up to this much, either way
        gain_db: the sound gets louder or softer by up to this much
        freq_mask: widest band of mel rows that is masked, as a part of the height
        time_mask: widest stretch of mel columns that is masked, as a part of the width
    """

    crop_scale_min: float = 0.6
    flip_prob: float = 0.5
    randaugment_ops: int = 0
    randaugment_magnitude: float = 5.0
    erase_prob: float = 0.0
    shift_seconds: float = 0.0
    gain_db: float = 6.0
    freq_mask: float = 0.0
    time_mask: float = 0.0

    def __post_init__(self) -> None:
        within("crop_scale_min", self.crop_scale_min, 0.0, 1.0, open_low=True)
        for name in ("flip_prob", "erase_prob"):
            within(name, getattr(self, name), 0.0, 1.0)
        for name in ("freq_mask", "time_mask"):
            within(name, getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("randaugment_ops", "shift_seconds", "gain_db"):
            at_least(name, getattr(self, name), 0)
        if int(self.randaugment_ops) != self.randaugment_ops:
            raise SettingsError(f"--randaugment_ops: got {self.randaugment_ops}, expected a whole number")
        within("randaugment_magnitude", self.randaugment_magnitude, 0.0, 10.0)


NO_AUGMENTATION = AugmentSettings(crop_scale_min=1.0, flip_prob=0.0, gain_db=0.0)
