"""How frames and mel pictures are mixed before any network (DESIGN of the method: arXiv 2308.13820, section "mixer")."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within
from cmmixer.errors import SettingsError

MIX_MODES = ("pixel", "patch", "image", "video")


@dataclass(frozen=True, kw_only=True)
class MixerSettings:
    """Settings of the cross-modal mixer.

    Attributes:
        mixup_mode: what one draw covers: pixel, patch, image (one draw per frame) or video (one draw per clip)
        mixup_alpha: Beta(alpha, alpha) of mixup, a constant share of a frame; at 0.001 whole frames are swapped; 0 switches it off
        cutmix_alpha: Beta(alpha, alpha) of cutmix, a rectangle of the other modality; 0 switches cutmix off
        cutmix_minmax: [low, high] of the rectangle's sides as a part of the frame's, instead of a Beta draw
        mixup_prob: probability that a clip is mixed at all
        mixup_switch_prob: with both on, probability of cutmix instead of mixup
        mix_rate: modes pixel and patch: probability that a pixel or patch is taken from the sound
    """

    mixup_mode: str = "image"
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    cutmix_minmax: tuple[float, float] | None = None
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mix_rate: float = 0.5

    def __post_init__(self) -> None:
        one_of("mixup_mode", self.mixup_mode, MIX_MODES)
        at_least("mixup_alpha", self.mixup_alpha, 0.0)
        at_least("cutmix_alpha", self.cutmix_alpha, 0.0)
        for name in ("mixup_prob", "mixup_switch_prob", "mix_rate"):
            within(name, getattr(self, name), 0.0, 1.0)
        if self.cutmix_minmax is not None:
            low, high = self.cutmix_minmax
            if not 0.0 <= low <= high <= 1.0:
                raise SettingsError(f"--cutmix_minmax: got {low}, {high}, expected 0 <= low <= high <= 1")
        if self.mixup_mode in ("image", "video") and not (self.uses_mixup or self.uses_cutmix):
            raise SettingsError(
                f"--mixup_alpha and --cutmix_alpha are both 0, so mode {self.mixup_mode!r} has nothing to draw; "
                "set one above 0, or --mixup_prob 0 to train without mixing"
            )

    @property
    def uses_mixup(self) -> bool:
        return self.mixup_alpha > 0.0

    @property
    def uses_cutmix(self) -> bool:
        return self.cutmix_alpha > 0.0 or self.cutmix_minmax is not None
