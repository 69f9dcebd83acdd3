"""The front end: normalization of frames and mel spectrograms against its formulas."""

from __future__ import annotations

import torch

from cmmixer.models.frontend import FrontEnd
from cmmixer.types import Statistics
from tests.support.small_runs import PICO

STATISTICS = Statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), mel_mean=-40.0, mel_std=12.0, clips=5)


def test_frames_are_normalized_per_channel() -> None:
    pixels = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    out = FrontEnd(PICO, STATISTICS).video(pixels)
    mean = torch.tensor(STATISTICS.frame_mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(STATISTICS.frame_std, dtype=torch.float64)[:, None, None]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), (pixels.double() / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_mel_spectrograms_are_normalized_and_expanded_without_a_copy() -> None:
    frontend = FrontEnd(PICO, STATISTICS)
    windows = torch.randint(-20000, 20000, (2, 2, PICO.window_samples), dtype=torch.int16)
    out = frontend.audio(windows)
    assert out.shape == (2, 2, 3, 32, 32)
    assert out.stride(2) == 0
    torch.testing.assert_close(out[:, :, :1], (frontend.mel(windows) + 40.0) / 12.0)
    assert torch.equal(out[:, :, 0], out[:, :, 2])


def test_published_defect_mel_left_in_decibels() -> None:
    """There, decibels went into the network as they were. Here measured statistics bring them to mean 0 and deviation 1."""
    windows = torch.randint(-20000, 20000, (4, 2, PICO.window_samples), dtype=torch.int16)
    decibels = FrontEnd(PICO, STATISTICS).decibels(windows)
    measured = Statistics((0.5,) * 3, (0.25,) * 3, decibels.mean().item(), decibels.std().item(), 4)
    out = FrontEnd(PICO, measured).audio(windows)
    assert abs(out.mean().item()) < 1e-4
    assert abs(out.std().item() - 1) < 1e-3


def test_the_steps_compose() -> None:
    frontend = FrontEnd(PICO, STATISTICS)
    pixels = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    windows = torch.randint(-20000, 20000, (1, 2, PICO.window_samples), dtype=torch.int16)
    assert torch.equal(frontend.normalize_video(frontend.pixels01(pixels)), frontend.video(pixels))
    assert torch.equal(frontend.normalize_audio(frontend.decibels(windows)), frontend.audio(windows))
    pixels01 = frontend.pixels01(pixels)
    assert (pixels01.min(), pixels01.max()) == (pixels.min() / 255, pixels.max() / 255)


def test_the_front_end_has_no_state() -> None:
    assert not FrontEnd(PICO, STATISTICS).state_dict()


def test_float_windows_of_full_scale_1_give_the_decibels_of_int16() -> None:
    windows = torch.randint(-20000, 20000, (1, 2, PICO.window_samples), dtype=torch.int16)
    frontend = FrontEnd(PICO, STATISTICS)
    decibels = frontend.decibels(windows)
    assert decibels.shape == (1, 2, 1, 32, 32)
    torch.testing.assert_close(frontend.decibels(windows.float() / 32768), decibels)


def test_pixels_at_the_mean_are_normalized_to_0_and_one_deviation_above_to_1() -> None:
    frontend = FrontEnd(PICO, STATISTICS)
    mean, std = torch.tensor(STATISTICS.frame_mean), torch.tensor(STATISTICS.frame_std)
    pixels = torch.stack([mean, mean + std]).reshape(1, 2, 3, 1, 1).expand(1, 2, 3, 4, 4)
    expected = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 4)
    torch.testing.assert_close(frontend.normalize_video(pixels), expected, rtol=0, atol=1e-6)
    decibels = torch.tensor([-40.0, -28.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 4, 4)
    assert torch.equal(frontend.normalize_audio(decibels), expected)
