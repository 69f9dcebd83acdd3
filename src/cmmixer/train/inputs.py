"""Model inputs of a training step: augmented, normalized frames and mel spectrograms, and the random numbers of the step.

All random numbers of a step follow from (seed, step), so a resumed run draws the same ones as an uninterrupted run.
They are drawn for the global batch, and each process takes its rows: one process with 16 clips and two with 8 see the
same masks and mixes.

Letters: B clips of this process, T frames, H x W pixels, N samples of a sound window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmmixer.config import AugmentSettings, ClipSettings
from cmmixer.data.augment import AudioAugment, AudioDraw, FrameAugment, FrameDraw
from cmmixer.models.frontend import FrontEnd
from cmmixer.types import Batch, Statistics


@dataclass(frozen=True)
class StepRNG:
    """The random number generators of one batch.

    Attributes:
        cpu_generator: for draws on the host.
        device_generator: for draws on the device of the batch.
        global_batch: number of clips over all processes.
        rows: which of these clips belong to this process.
    """

    cpu_generator: torch.Generator
    device_generator: torch.Generator
    global_batch: int
    rows: slice


def rng_for_step(seed: int, step: int, *, device: torch.device, rank: int, world: int, batch_size: int) -> StepRNG:
    """Returns the random number generators of one batch.

    Args:
        seed: seed of the run.
        step: number of the batch, from 0.
        device: device of the batch.
        rank: number of this process.
        world: number of processes.
        batch_size: clips per process.
    """
    cpu_seed, device_seed = (int(value) for value in np.random.SeedSequence([seed, step]).generate_state(2, np.uint64))
    # torch takes a signed 64-bit seed.
    cpu_generator = torch.Generator().manual_seed(cpu_seed >> 1)
    device_generator = torch.Generator(device=device).manual_seed(device_seed >> 1)
    rows = slice(rank * batch_size, (rank + 1) * batch_size)
    return StepRNG(cpu_generator, device_generator, batch_size * world, rows)


class TrainingInputs:
    """uint8 frames and int16 sound windows -> augmented, normalized video and mel spectrograms, float [B, T, 3, H, W] each."""

    def __init__(self, clip: ClipSettings, statistics: Statistics, augment: AugmentSettings) -> None:
        self.frontend = FrontEnd(clip, statistics)
        self.frame_augment = FrameAugment(augment)
        self.audio_augment = AudioAugment(augment, clip)

    def __call__(self, batch: Batch, rng: StepRNG) -> tuple[Tensor, Tensor]:
        """Returns the inputs of both modalities, video first."""
        video, audio = self.of_modalities(batch, rng, ("video", "audio"))
        return video, audio

    def of_modalities(self, batch: Batch, rng: StepRNG, modalities: Sequence[str]) -> list[Tensor]:
        """Returns the inputs of these modalities, in this order; the draws do not depend on which ones are asked for."""
        self.frontend.to(batch.video_BTCHW.device)
        frame_draw = self.frame_augment.draw(rng.global_batch, rng.cpu_generator).rows(rng.rows)
        audio_draw = self.audio_augment.draw(rng.global_batch, rng.cpu_generator).rows(rng.rows)
        make = {
            "video": lambda: self._video(batch.video_BTCHW, frame_draw),
            "audio": lambda: self._audio(batch.audio_BTN, audio_draw),
        }
        return [make[modality]() for modality in modalities]

    def _video(self, pixels_BTCHW: Tensor, draw: FrameDraw) -> Tensor:
        return self.frontend.normalize_video(self.frame_augment.apply(self.frontend.pixels01(pixels_BTCHW), draw))

    def _audio(self, windows_BTN: Tensor, draw: AudioDraw) -> Tensor:
        decibels = self.frontend.decibels(self.audio_augment.apply_waveform(windows_BTN, draw))
        return self.frontend.normalize_audio(self.audio_augment.apply_mel(decibels, draw))
