"""Statistics for normalization: those of the plain formula, on no more clips than asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmmixer.data.statistics import measure_statistics
from cmmixer.media.mel import MelSpectrogram
from tests.support.small_runs import PICO, ArrayClips, FaultyClips, random_clips


def test_statistics_are_those_of_the_plain_formula() -> None:
    dataset = random_clips(20)
    statistics = measure_statistics(dataset, PICO, limit=100)
    pixels = dataset.video_NTCHW.astype(np.float64) / 255
    decibels = MelSpectrogram(PICO)(torch.from_numpy(dataset.audio_NTS)).double().numpy()
    assert statistics.clips == 20
    assert statistics.frame_mean == pytest.approx(pixels.mean((0, 1, 3, 4)), rel=1e-9)
    assert statistics.frame_std == pytest.approx(pixels.std((0, 1, 3, 4)), rel=1e-9)
    assert statistics.mel_mean == pytest.approx(decibels.mean(), rel=1e-6)
    assert statistics.mel_std == pytest.approx(decibels.std(), rel=1e-6)


def test_no_more_clips_are_measured_than_the_limit() -> None:
    dataset = FaultyClips(60, broken=set())
    assert measure_statistics(dataset, PICO, limit=20).clips == 20
    assert dataset.reads.total() == 32  # two batches of 16
    assert measure_statistics(dataset, PICO, limit=20) == measure_statistics(dataset, PICO, limit=20)


def test_constant_clips_have_no_deviation() -> None:
    clips = ArrayClips(np.full((3, 2, 3, 32, 32), 51, np.uint8), np.zeros((3, 2, 2000), np.int16))
    statistics = measure_statistics(clips, PICO)
    assert statistics.frame_mean == pytest.approx((0.2, 0.2, 0.2))
    assert statistics.frame_std == pytest.approx((0.0, 0.0, 0.0), abs=1e-7)
    assert statistics.mel_std == pytest.approx(0.0, abs=1e-6)
    assert statistics.clips == 3


def test_channels_are_measured_apart() -> None:
    video = np.zeros((4, 2, 3, 32, 32), np.uint8)
    video[:2, :, 0], video[:, :, 2] = 255, 255
    statistics = measure_statistics(ArrayClips(video, random_clips(4).audio_NTS), PICO)
    assert statistics.frame_mean == pytest.approx((0.5, 0.0, 1.0))
    assert statistics.frame_std == pytest.approx((0.5, 0.0, 0.0), abs=1e-7)


def test_the_draw_follows_the_seed() -> None:
    dataset = random_clips(40)
    one, again, other = (measure_statistics(dataset, PICO, limit=16, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
