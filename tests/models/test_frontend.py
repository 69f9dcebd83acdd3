from __future__ import annotations

import torch

from cmmixer.models.frontend import FrontEnd
from cmmixer.types import Statistics
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), mel_mean=-40.0, mel_std=12.0, clips=5)


def test_frames_are_standardised_per_channel() -> None:
    pixels = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    given = FrontEnd(PICO, STATISTICS).video(pixels)
    mean = torch.tensor(STATISTICS.picture_mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(STATISTICS.picture_std, dtype=torch.float64)[:, None, None]
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.double(), (pixels.double() / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_mel_pictures_are_standardised_and_repeated_without_a_copy() -> None:
    frontend = FrontEnd(PICO, STATISTICS)
    windows = torch.randint(-20000, 20000, (2, 2, PICO.window_samples), dtype=torch.int16)
    given = frontend.audio(windows)
    assert given.shape == (2, 2, 3, 32, 32)
    assert given.stride(2) == 0
    torch.testing.assert_close(given[:, :, :1], (frontend.mel(windows) + 40.0) / 12.0)
    assert torch.equal(given[:, :, 0], given[:, :, 2])


def test_published_defect_mel_left_in_decibels() -> None:
    """There, decibels went into the network as they were; measured statistics bring them to mean 0 and spread 1."""
    windows = torch.randint(-20000, 20000, (4, 2, PICO.window_samples), dtype=torch.int16)
    decibels = FrontEnd(PICO, STATISTICS).decibels(windows)
    measured = Statistics((0.5,) * 3, (0.25,) * 3, decibels.mean().item(), decibels.std().item(), 4)
    given = FrontEnd(PICO, measured).audio(windows)
    assert abs(given.mean().item()) < 1e-4
    assert abs(given.std().item() - 1) < 1e-3


def test_the_steps_make_up_the_whole() -> None:
    frontend = FrontEnd(PICO, STATISTICS)
    pixels = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    windows = torch.randint(-20000, 20000, (1, 2, PICO.window_samples), dtype=torch.int16)
    assert torch.equal(frontend.standardise_video(frontend.pixels01(pixels)), frontend.video(pixels))
    assert torch.equal(frontend.standardise_audio(frontend.decibels(windows)), frontend.audio(windows))
    pixels01 = frontend.pixels01(pixels)
    assert (pixels01.min(), pixels01.max()) == (pixels.min() / 255, pixels.max() / 255)


def test_nothing_of_it_goes_into_a_weights_file() -> None:
    assert not FrontEnd(PICO, STATISTICS).state_dict()
