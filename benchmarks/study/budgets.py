"""How much each study trains on; every cell of a study gets the same."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cmmixer.config import ClipSettings, preset
from cmmixer.config.clip import ClipOptions
from cmmixer.errors import SettingsError

REGIMES = ("pairs", "pools")
# Films are held once, and batches, weights and activations beside them.
MEMORY_SHARE = 0.6


@dataclass(frozen=True)
class Budget:
    """What a study spends.

    Attributes:
        preset: size of the networks.
        geometry: preset whose frames, pixels and seconds the clips have.
        difficulty: of the films; set so that the controls' R@1 neither sticks at 0 nor at 1.
        films: regime `pairs`: films to train on.
        pool: regime `pools`: films that give their pictures only, and as many others that give their sound only.
        pairs: regime `pools`: films, again others, to fine-tune on.
        gallery: candidates.
        pretrain_views, finetune_views: clips seen by each stage.
        pretrain_batch, finetune_batch: clips per step.
        pretrain_lr, finetune_lr: peak step sizes.
        seeds: of a full study.
        words: what it is, for the head of the document.
    """

    preset: str
    geometry: str
    difficulty: str
    films: int
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
    words: str

    @property
    def clip(self) -> ClipSettings:
        """Geometry of the clips."""
        return ClipOptions().clip_settings(self.geometry)

    def film_bytes(self) -> int:
        """Bytes of the films of the larger regime: pictures of one byte a number, mel pictures of two."""
        clip = self.clip
        # Films of the pools are rendered whole, though only one of their senses is used.
        films = max(self.films, 2 * self.pool + self.pairs) + self.gallery
        return films * clip.frames * clip.height * clip.width * (3 + 2)


BUDGETS = {
    "smoke": Budget(
        "nano", "nano", "easy", 128, 128, 64, 100, 320, 160, 16, 32, 3e-4, 1e-3, (0,),
        "a look whether everything runs; its figures say nothing about methods",
    ),
    "cpu": Budget(
        "nano", "nano", "easy", 1_200, 4_800, 300, 1_000, 19_200, 9_600, 16, 64, 3e-4, 1e-3, (0, 1, 2),
        "what two CPU cores can do in an evening: very small networks, easy films",
    ),
    "cpu-hard": Budget(
        "nano", "nano", "hard", 1_200, 4_800, 300, 1_000, 19_200, 9_600, 16, 64, 3e-4, 1e-3, (0, 1, 2),
        "the same on hard films, too hard for networks so small: a look at how far it is",
    ),
    "gpu": Budget(
        "small", "tiny", "hard", 100_000, 100_000, 1_000, 1_000, 3_000_000, 1_000_000, 256, 256, 3e-4, 5e-4, (0, 1, 2),
        "small networks on hard films of 112 pixels, for one GPU",
    ),
}  # fmt: skip


def check_memory(budget: Budget, bytes_there: int | None = None) -> None:
    """Refuses a budget whose films do not fit.

    Raises:
        SettingsError: says how much is needed and how much is there.
    """
    preset(budget.preset)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if bytes_there is None else bytes_there
    # Twice: as read from the cache and as joined, and on a GPU's machine once more on the GPU.
    needed = 2 * budget.film_bytes()
    if needed > MEMORY_SHARE * there:
        raise SettingsError(
            f"--budget: its films take {needed / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB are there, of which "
            f"{MEMORY_SHARE:.0%} may be used; take a smaller budget or a larger machine"
        )
