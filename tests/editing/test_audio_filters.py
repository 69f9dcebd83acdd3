"""Stereo tracks: gapless decoding, the timeline, filter graphs and the loudness meter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
from av.filter import Graph
from av.filter.context import FilterContext
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmmixer.editing.audio_filters import (
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    Track,
    as_blocks,
    decibels,
    filter_chain,
    measure_loudness,
    run_filters,
    stereo_blocks,
)
from cmmixer.media.container import TimedFrame

RATE = SAMPLE_RATE_HZ


def timed(seconds: float, value: float, count: int = 4800, rate: int = RATE) -> TimedFrame:
    """A stereo frame of constant samples."""
    frame = av.AudioFrame.from_ndarray(np.full((2, count), value, np.float32), format="fltp", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    return TimedFrame(seconds, frame)


def joined(frames: list[TimedFrame], start: float, seconds: float) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((2, 0), np.float32), *stereo_blocks(frames, start, seconds)], axis=1)


def sine(seconds: float, hz: float = 1000.0, amplitude: float = 0.5) -> NDArray[np.float32]:
    """float32 (2, N)."""
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


def blocks_of(samples_2N: NDArray[np.float32], size: int = BLOCK_SAMPLES) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, samples_2N.shape[1], size):
        yield samples_2N[:, begin : begin + size]


def test_frames_are_placed_by_their_timestamps() -> None:
    samples = joined([timed(0.0, 0.1), timed(0.3, 0.2)], 0.0, 1.0)
    expected = np.repeat([0.1, 0.0, 0.0, 0.2], 4800).astype(np.float32)
    np.testing.assert_allclose(samples, [expected, expected], atol=1e-6)


def test_rounded_timestamps_leave_no_gap() -> None:
    samples = joined([timed(0.0, 0.1), timed(0.104, 0.2), timed(0.196, 0.3)], 0.0, 1.0)
    assert samples.shape == (2, 3 * 4800)
    assert (samples != 0).all()


def test_a_stretch_begins_and_ends_where_it_should() -> None:
    frames = [timed(0.1 * number, 0.1 * (number + 1)) for number in range(5)]
    samples = joined(frames, 0.15, 0.2)
    expected = np.repeat([0.2, 0.3, 0.4], [2400, 4800, 2400]).astype(np.float32)
    np.testing.assert_allclose(samples[0], expected, atol=1e-6)


def test_audio_that_begins_late_is_preceded_by_silence() -> None:
    samples = joined([timed(0.25, 0.1)], 0.0, 1.0)
    assert samples.shape == (2, round(0.35 * RATE))
    assert not samples[:, : round(0.25 * RATE)].any()


def test_no_frames_give_no_blocks() -> None:
    assert list(stereo_blocks([], 0.0, 1.0)) == []


def test_frames_after_the_end_are_not_read() -> None:
    def frames() -> Iterator[TimedFrame]:
        yield timed(0.0, 0.1)
        raise AssertionError("read beyond the end")

    assert sum(block.shape[1] for block in stereo_blocks(frames(), 0.0, 0.1)) == 4800


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_audio_is_resampled_to_48_khz(rate: int) -> None:
    samples = joined([timed(0.0, 0.25, rate, rate)], 0.0, 1.0)
    assert samples.shape == (2, RATE)
    np.testing.assert_allclose(samples[:, 500:-500], 0.25, atol=1e-3)


@settings(max_examples=40)
@given(
    length=st.integers(1, 30_000),
    offset=st.integers(0, 29_999),
    parts=st.lists(st.integers(0, 9000), max_size=5),
)
def test_a_track_is_silent_around_its_sound(length: int, offset: int, parts: list[int]) -> None:
    generator = np.random.default_rng(0)
    blocks = [generator.uniform(-1, 1, (2, count)).astype(np.float32) for count in parts]
    sound = np.concatenate([np.zeros((2, 0), np.float32), *blocks], axis=1)[:, : max(0, length - offset)]
    expected = np.zeros((2, length), np.float32)
    offset = min(offset, length)
    expected[:, offset : offset + sound.shape[1]] = sound
    with Track(Path("/tmp"), length, offset) as track:
        track.fill(blocks)
        assert track.samples == sound.shape[1]
        assert track.end_samples == offset + sound.shape[1]
        assert track.peak == (np.abs(sound).max() if sound.size else 0.0)
        for _ in range(2):  # as often as needed
            read = list(track.blocks())
            assert all(block.shape[1] <= BLOCK_SAMPLES for block in read)
            np.testing.assert_array_equal(np.concatenate(read, axis=1), expected)


def test_a_track_leaves_no_file(tmp_path: Path) -> None:
    with Track(tmp_path, 100) as track:
        track.fill([np.ones((2, 50), np.float32)])
        assert list(tmp_path.iterdir()) == []


def test_a_chain_applies_filters_in_order() -> None:
    chain = filter_chain(("volume", "2.0"), ("aresample", str(RATE)), ("volume", "0.25"))
    out = np.concatenate(list(as_blocks(run_filters([blocks_of(sine(0.5))], chain))), axis=1)
    np.testing.assert_allclose(out, 0.5 * sine(0.5), atol=1e-6)


def add_up(graph: Graph, sources: list[FilterContext]) -> list[FilterContext]:
    """A graph that mixes two sources."""
    mix = graph.add("amix", "inputs=2:normalize=0")
    for number, source in enumerate(sources):
        source.link_to(mix, 0, number)
    return [mix]


def test_two_tracks_can_be_mixed() -> None:
    tracks = [blocks_of(sine(0.3, 500.0)), blocks_of(sine(0.3, 900.0))]
    out = np.concatenate(list(as_blocks(run_filters(tracks, add_up))), axis=1)
    np.testing.assert_allclose(out, sine(0.3, 500.0) + sine(0.3, 900.0), atol=1e-6)


def test_tracks_of_different_lengths_are_a_bug() -> None:
    tracks = [blocks_of(sine(0.3)), blocks_of(sine(0.5))]
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer than argument 1"):
        list(run_filters(tracks, add_up))


@pytest.mark.parametrize("amplitude", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("hz", [100.0, 1000.0, 4000.0])
def test_loudness_agrees_with_an_independent_meter(amplitude: float, hz: float) -> None:
    samples = sine(3.0, hz, amplitude)
    measured = measure_loudness(blocks_of(samples))
    assert measured.lufs == pytest.approx(pyloudnorm.Meter(RATE).integrated_loudness(samples.T.astype(float)), abs=0.15)
    assert measured.true_peak_dbtp == pytest.approx(20 * math.log10(amplitude), abs=0.3 if amplitude > 0.01 else 2.0)


def test_the_true_peak_lies_between_samples() -> None:
    times = np.arange(RATE)
    wave = np.sin(2 * np.pi * times / 4 + np.pi / 4).astype(np.float32)  # samples are at 0.707, the peak is at 1
    assert np.abs(wave).max() == pytest.approx(math.sqrt(0.5), abs=1e-4)
    assert measure_loudness(blocks_of(np.stack([wave, wave]))).true_peak_dbtp == pytest.approx(
        0.3, abs=0.4
    )  # it starts abruptly


def test_blocks_of_any_size_have_the_same_loudness() -> None:
    samples = sine(1.3, 700.0)
    results = [measure_loudness(blocks_of(samples, size)) for size in (BLOCK_SAMPLES, 1000, 100_000)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("samples_2N", [np.zeros((2, RATE), np.float32), np.zeros((2, 0), np.float32)])
def test_silence_has_no_loudness(samples_2N: NDArray[np.float32]) -> None:
    measured = measure_loudness(blocks_of(samples_2N))
    assert measured.lufs is None
    assert measured.true_peak_dbtp == -math.inf


def test_a_blip_has_a_peak_but_no_loudness() -> None:
    measured = measure_loudness(blocks_of(sine(0.1)))
    assert measured.lufs is None
    assert measured.true_peak_dbtp == pytest.approx(20 * math.log10(0.5), abs=0.2)


def test_decibels() -> None:
    assert decibels(1.0) == 0.0
    assert decibels(0.1) == pytest.approx(-20.0)
    assert decibels(0.0) == -math.inf
