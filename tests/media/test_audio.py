"""Mono samples from decoded frames: mixing down, placing by timestamps, resampling, loudness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from cmmixer.media.audio import JOIN_SECONDS, ChannelMixer, assemble_mono, loudness_dbfs, resample
from cmmixer.media.container import TimedFrame

RATE = 8000


def frame_of(samples_CN: NDArray[np.int16], layout: str = "mono", rate: int = RATE) -> av.AudioFrame:
    """A frame of int16 (C, N)."""
    frame = av.AudioFrame.from_ndarray(samples_CN.T.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    return frame


def timed(seconds: float, value: int, count: int = 800, rate: int = RATE) -> TimedFrame:
    """A frame of constant samples."""
    return TimedFrame(seconds, frame_of(np.full((1, count), value, np.int16), rate=rate))


def test_a_mono_frame_keeps_its_samples() -> None:
    mixed = ChannelMixer(RATE).mix(frame_of(np.array([[0, 16384, -32768]], np.int16)))
    assert mixed.dtype == np.float32
    assert mixed.tolist() == [[0.0, 0.5, -1.0]]


def test_stereo_is_averaged_to_mono() -> None:
    mixed = ChannelMixer(RATE).mix(frame_of(np.array([[16384, 0], [0, 16384]], np.int16), "stereo"))
    np.testing.assert_allclose(mixed, [[0.25, 0.25]], atol=1e-4)


def test_mono_fills_both_channels_of_stereo_at_the_same_power() -> None:
    mixed = ChannelMixer(RATE, "stereo").mix(frame_of(np.array([[8192, -8192]], np.int16)))
    np.testing.assert_allclose(mixed, [[0.25 / math.sqrt(2), -0.25 / math.sqrt(2)]] * 2, atol=1e-6)


@pytest.mark.parametrize("layout", ["stereo", "5.1", "7.1"])
def test_a_mixdown_never_clips(layout: str) -> None:
    channels = len(av.AudioLayout(layout).channels)
    mixed = ChannelMixer(RATE).mix(frame_of(np.full((channels, 100), 32767, np.int16), layout))
    assert np.abs(mixed).max() <= 1.0 + 1e-6
    assert np.abs(mixed).max() == pytest.approx(1.0, abs=0.01)


def test_a_layout_may_change_within_a_stream() -> None:
    mixer = ChannelMixer(RATE)
    assert mixer.mix(frame_of(np.full((1, 5), 8192, np.int16)))[0, 0] == 0.25
    assert mixer.mix(frame_of(np.full((2, 5), 8192, np.int16), "stereo"))[0, 0] == pytest.approx(0.25, abs=1e-4)
    assert mixer.mix(frame_of(np.full((1, 5), 16384, np.int16)))[0, 0] == 0.5


@pytest.mark.parametrize("layout", ["BL+BR", "ambisonic 1"])
@pytest.mark.parametrize(("output", "rows"), [("mono", 1), ("stereo", 2)])
def test_a_layout_that_ffmpeg_cannot_mix_is_averaged(layout: str, output: str, rows: int) -> None:
    channels = len(av.AudioLayout(layout).channels)
    samples_CN = np.repeat(np.arange(1, channels + 1, dtype=np.int16)[:, None] * 1000, 64, axis=1)
    mixed = ChannelMixer(RATE, output).mix(frame_of(samples_CN, layout))
    assert mixed.shape == (rows, 64)
    if layout == "ambisonic 1" or output == "mono":
        np.testing.assert_allclose(mixed, samples_CN.mean() / 32768, atol=1e-6)


def test_frames_are_placed_by_their_timestamps() -> None:
    samples = assemble_mono([timed(0.0, 100), timed(0.3, 200)], 0.0, 0.5, RATE)
    assert samples is not None
    assert samples.dtype == np.int16
    assert samples.tolist() == [100] * 800 + [0] * 1600 + [200] * 800 + [0] * 800


def test_frames_that_nearly_touch_are_joined() -> None:
    gap = JOIN_SECONDS / 2
    samples = assemble_mono([timed(0.0, 100), timed(0.1 + gap, 200), timed(0.2 - gap, 300)], 0.0, 0.3, RATE)
    assert samples is not None
    assert samples.tolist() == [100] * 800 + [200] * 800 + [300] * 800


def test_frames_outside_the_range_are_cut_off() -> None:
    frames = [timed(0.0, 100), timed(0.1, 200), timed(0.2, 300)]
    samples = assemble_mono(frames, 0.05, 0.25, RATE)
    assert samples is not None
    assert samples.tolist() == [100] * 400 + [200] * 800 + [300] * 400


def test_frames_after_the_end_are_not_decoded() -> None:
    def frames() -> Iterator[TimedFrame]:
        yield timed(0.0, 100)
        yield timed(5.0, 200)
        raise AssertionError("read beyond the end")

    samples = assemble_mono(frames(), 0.0, 0.1, RATE)
    assert samples is not None
    assert samples.tolist() == [100] * 800


def test_a_negative_start_is_padded_with_zeros() -> None:
    samples = assemble_mono([timed(0.0, 100)], -0.1, 0.1, RATE)
    assert samples is not None
    assert samples.tolist() == [0] * 800 + [100] * 800


def test_no_frames_give_nothing() -> None:
    assert assemble_mono([], 0.0, 1.0, RATE) is None


@pytest.mark.parametrize("target", [4000, 11025, 16000, 48000])
def test_the_length_follows_from_the_target_rate(target: int) -> None:
    samples = assemble_mono([timed(0.0, 1000, 8000)], 0.25, 0.75, target)
    assert samples is not None
    assert len(samples) == round(0.75 * target) - round(0.25 * target)
    np.testing.assert_allclose(samples, 1000, atol=2)


def test_a_part_has_the_same_samples_as_the_whole() -> None:
    noise = np.random.default_rng(0).normal(0, 4000, (1, 4 * 11025)).astype(np.int16)
    frames = [TimedFrame(0.0, frame_of(noise, rate=11025))]
    whole = assemble_mono(frames, 0.0, 4.0, RATE)
    assert whole is not None
    for start, end in ((0.5, 1.0), (1.234, 1.75), (3.5, 4.0)):
        part = assemble_mono(frames, start, end, RATE)
        np.testing.assert_array_equal(part, whole[round(start * RATE) : round(end * RATE)])


def test_the_same_rate_only_rounds_and_clips() -> None:
    samples = np.array([0.0, 0.5, 1.5 / 32768, 2.0, -2.0], np.float32)
    assert resample(samples, RATE, RATE).tolist() == [0, 16384, 2, 32767, -32768]


@pytest.mark.parametrize(("own", "target"), [(8000, 16000), (16000, 8000), (44100, 16000)])
def test_resampling_keeps_a_tone_in_place(own: int, target: int) -> None:
    times = np.arange(own) / own
    samples = resample((0.5 * np.sin(2 * np.pi * 300 * times)).astype(np.float32), own, target)
    expected = 16384 * np.sin(2 * np.pi * 300 * np.arange(len(samples)) / target)
    np.testing.assert_allclose(samples[200:-400], expected[200:-400], atol=12)


def test_loudness_dbfs() -> None:
    assert loudness_dbfs(np.full(100, -32768, np.int16)) == pytest.approx(0.0)
    assert loudness_dbfs(np.full(100, 3277, np.int16)) == pytest.approx(-20.0, abs=0.01)
    assert loudness_dbfs(np.zeros(100, np.int16)) == -math.inf
    assert loudness_dbfs(np.zeros(0, np.int16)) == -math.inf


def test_loudness_dbfs_of_a_sine_is_three_decibels_below_its_peak() -> None:
    sine = np.rint(32767 * np.sin(2 * np.pi * np.arange(8000) / 80)).astype(np.int16)
    assert loudness_dbfs(sine) == pytest.approx(-10 * math.log10(2), abs=0.001)
