"""Model inputs: draws follow from (seed, step) alone, processes take their rows of them, and values are normalized."""

from __future__ import annotations

import pytest
import torch

from cmmixer.config import AugmentSettings
from cmmixer.config.training import NO_AUGMENTATION
from cmmixer.models.frontend import FrontEnd
from cmmixer.train.inputs import TrainingInputs, rng_for_step
from cmmixer.types import Batch, Statistics
from tests.support.small_runs import PICO
from tests.support.training_runs import random_batch, step_rng

CPU = torch.device("cpu")
STATISTICS = Statistics((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), -40.0, 12.0, clips=1)
# Every augmentation draws something.
STRONG = AugmentSettings(
    crop_scale_min=0.3,
    randaugment_ops=2,
    erase_prob=1.0,
    shift_seconds=0.05,
    gain_db=6.0,
    freq_mask=0.5,
    time_mask=0.5,
)


def drawn(
    seed: int, step: int, rank: int = 0, world: int = 1, batch_size: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = rng_for_step(seed, step, device=CPU, rank=rank, world=world, batch_size=batch_size)
    host = torch.rand(rng.global_batch, 3, generator=rng.cpu_generator)[rng.rows]
    device = torch.rand(rng.global_batch, 3, generator=rng.device_generator)[rng.rows]
    return host, device


def test_same_seed_and_step_draw_the_same() -> None:
    for first, second in zip(drawn(3, 11), drawn(3, 11), strict=True):
        assert torch.equal(first, second)


def test_other_steps_seeds_and_generators_draw_other_numbers() -> None:
    tensors = [tensor for seed, step in ((3, 11), (3, 12), (4, 11)) for tensor in drawn(seed, step)]
    assert len({tuple(tensor.flatten().tolist()) for tensor in tensors}) == 6


def test_four_processes_draw_together_what_one_draws() -> None:
    one = drawn(0, 5, batch_size=16)
    parts = [drawn(0, 5, rank, 4, 4) for rank in range(4)]
    for which in (0, 1):
        assert torch.equal(torch.cat([part[which] for part in parts]), one[which])


def test_seeds_of_a_step_stay_what_they_were() -> None:
    """A run started by an earlier version resumes with the same draws."""
    rng = rng_for_step(3, 11, device=CPU, rank=1, world=2, batch_size=4)
    assert (rng.cpu_generator.initial_seed(), rng.device_generator.initial_seed()) == (
        5623506163822623250,
        2167807560435464973,
    )
    assert (rng.global_batch, rng.rows) == (8, slice(4, 8))


def test_inputs_without_augmentation_are_those_of_evaluation() -> None:
    inputs, batch = TrainingInputs(PICO, STATISTICS, NO_AUGMENTATION), random_batch(3)
    video, audio = inputs(batch, step_rng(3))
    frontend = FrontEnd(PICO, STATISTICS)
    torch.testing.assert_close(video, frontend.video(batch.video_BTCHW))
    torch.testing.assert_close(audio, frontend.audio(batch.audio_BTN))
    assert video.shape == audio.shape == (3, 2, 3, 32, 32)
    # (pixel / 255 - mean) / standard deviation, for each channel.
    pixel = batch.video_BTCHW[2, 1, 1, 5, 7].item() / 255
    assert video[2, 1, 1, 5, 7].item() == pytest.approx((pixel - 0.5) / 0.2, abs=1e-5)


def test_augmented_inputs_are_shared_by_processes_row_by_row() -> None:
    inputs, batch = TrainingInputs(PICO, STATISTICS, STRONG), random_batch(6)
    video, audio = inputs(batch, step_rng(6, step=4))
    assert not torch.allclose(video, TrainingInputs(PICO, STATISTICS, NO_AUGMENTATION)(batch, step_rng(6))[0])
    for rank, rows in ((0, slice(0, 3)), (1, slice(3, 6))):
        part = Batch(batch.ids[rows], batch.labels[rows], batch.video_BTCHW[rows], batch.audio_BTN[rows])
        part_video, part_audio = inputs(part, step_rng(3, step=4, rank=rank, world=2))
        torch.testing.assert_close(part_video, video[rows])
        torch.testing.assert_close(part_audio, audio[rows])


@pytest.mark.parametrize("modalities", [("audio",), ("video",), ("audio", "video")])
def test_draws_do_not_depend_on_the_modalities(modalities: tuple[str, ...]) -> None:
    inputs, batch = TrainingInputs(PICO, STATISTICS, STRONG), random_batch(4)
    both = dict(zip(("video", "audio"), inputs(batch, step_rng(4)), strict=True))
    chosen = inputs.of_modalities(batch, step_rng(4), modalities)
    assert len(chosen) == len(modalities)
    for modality, tensor in zip(modalities, chosen, strict=True):
        assert torch.equal(tensor, both[modality])
