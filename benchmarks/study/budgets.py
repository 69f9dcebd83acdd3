"""The budgets of the study: data, clips seen, batch sizes and learning rates, the same for all cells."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cmmixer.config import ClipSettings, preset
from cmmixer.config.clip import ClipOptions
from cmmixer.errors import SettingsError

REGIMES = ("pairs", "pools")
# Part of the memory that the videos may take; the rest is for batches, weights and activations.
MEMORY_FRACTION = 0.6


@dataclass(frozen=True)
class Budget:
    """Data and compute of a study.

    Attributes:
        preset: size of the networks.
        geometry: preset whose frames, pixels and seconds the clips have.
        difficulty: of the videos; chosen so that R@1 of the controls is neither 0 nor 1.
        videos: regime `pairs`: number of training videos.
        pool: regime `pools`: number of silent videos, and of sounds of other videos.
        pairs: regime `pools`: number of videos to fine-tune on, different from both.
        gallery: number of candidates.
        pretrain_views, finetune_views: clips seen in each stage.
        pretrain_batch, finetune_batch: clips per step.
        pretrain_lr, finetune_lr: peak learning rates.
        seeds: of a full study.
        description: for the heading of the document.
    """

    preset: str
    geometry: str
    difficulty: str
    videos: int
    pool: int
    pairs: int
    gallery: int
    pretrain_views: int
    finetune_views: int
    pretrain_batch: int
    finetune_batch: int
    pretrain_lr: float
    finetune_lr: float
    seeds: tuple[int, ...]
    description: str

    @property
    def clip(self) -> ClipSettings:
        """Returns the geometry of the clips."""
        return ClipOptions().clip_settings(self.geometry)

    def video_bytes(self) -> int:
        """Returns the bytes of all videos of the larger regime: uint8 frames and float16 mel spectrograms."""
        clip = self.clip
        # Videos of the pools are rendered with both modalities, though only one is used.
        videos = max(self.videos, 2 * self.pool + self.pairs) + self.gallery
        return videos * clip.frames * clip.height * clip.width * (3 + 2)


BUDGETS = {
    "smoke": Budget(
        "nano", "nano", "easy", 128, 128, 64, 100, 320, 160, 16, 32, 3e-4, 1e-3, (0,),
        "a smoke test; its figures say nothing about methods",
    ),
    "cpu": Budget(
        "nano", "nano", "easy", 1_200, 4_800, 300, 1_000, 19_200, 9_600, 16, 64, 3e-4, 1e-3, (0, 1, 2),
        "very small networks on easy videos, an evening on two CPU cores",
    ),
    "cpu-hard": Budget(
        "nano", "nano", "hard", 1_200, 4_800, 300, 1_000, 19_200, 9_600, 16, 64, 3e-4, 1e-3, (0, 1, 2),
        "the same on hard videos, which are too hard for such small networks",
    ),
    "gpu": Budget(
        "small", "tiny", "hard", 100_000, 100_000, 1_000, 1_000, 3_000_000, 1_000_000, 256, 256, 3e-4, 5e-4, (0, 1, 2),
        "small networks on hard videos of 112 pixels, for one GPU",
    ),
}  # fmt: skip


def check_memory(budget: Budget, available_bytes: int | None = None) -> None:
    """Refuses a budget whose videos do not fit into memory.

    Raises:
        SettingsError: with the memory needed and available.
    """
    preset(budget.preset)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if available_bytes is None else available_bytes
    # Twice: as read from the cache and as concatenated.
    needed = 2 * budget.video_bytes()
    if needed > MEMORY_FRACTION * available:
        raise SettingsError(
            f"--budget: its videos need {needed / 1e9:.1f} GB of memory, expected at most {MEMORY_FRACTION:.0%} of the "
            f"{available / 1e9:.1f} GB of this machine; choose a smaller budget or a larger machine"
        )
