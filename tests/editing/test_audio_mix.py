"""Fades, ducking and level of the new audio, measured on samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmmixer.editing import audio_mix
from cmmixer.editing.audio_filters import SAMPLE_RATE_HZ, Loudness, Track, measure_loudness
from cmmixer.editing.audio_mix import CEILING_DBTP, Fades, Level, Mix, find_level, is_silent

RATE = SAMPLE_RATE_HZ
NO_FADES = Fades(0.0, 0.0, 0.0, 0.0)


def sine(seconds: float, hz: float = 1000.0, amplitude: float = 0.1) -> NDArray[np.float32]:
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


@pytest.fixture
def track(tmp_path: Path) -> Iterator[Track]:
    """One second of a sine, half a second into a timeline of two."""
    with Track(tmp_path, 2 * RATE, RATE // 2) as track:
        yield track.fill([sine(1.0)])


TrackMaker = Callable[[NDArray[np.float32]], Track]


@pytest.fixture
def track_of(tmp_path: Path) -> Iterator[TrackMaker]:
    """Makes tracks of given samples."""
    with ExitStack() as stack:
        yield lambda samples_2N: stack.enter_context(Track(tmp_path, samples_2N.shape[1])).fill([samples_2N])


def samples_of(blocks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(blocks), axis=1)


def test_fades_lie_at_both_ends() -> None:
    assert Fades.around(1.0, 4.0, 0.5, 1.0) == Fades(1.0, 0.5, 3.0, 1.0)


def test_fades_that_do_not_fit_are_shortened_alike() -> None:
    assert Fades.around(1.0, 2.0, 3.0, 1.0) == Fades(1.0, 0.75, 1.75, 0.25)
    assert Fades.around(0.0, 1.0, 0.0, 0.0) == Fades(0.0, 0.0, 1.0, 0.0)


@given(begin=st.floats(0, 100), length=st.floats(0.01, 100), fade_in=st.floats(0, 50), fade_out=st.floats(0, 50))
def test_fades_never_overlap(begin: float, length: float, fade_in: float, fade_out: float) -> None:
    fades = Fades.around(begin, begin + length, fade_in, fade_out)
    assert fades.in_at + fades.in_seconds <= fades.out_at + 1e-6
    assert fades.out_at + fades.out_seconds == pytest.approx(begin + length)
    assert fades.in_seconds <= fade_in
    assert fades.out_seconds <= fade_out


def test_fades_are_given_to_the_sample() -> None:
    assert Fades(0.1, 0.25, 2.0, 0.5).filters() == [
        ("afade", "t=in:ss=4800:ns=12000"),
        ("afade", "t=out:ss=96000:ns=24000"),
    ]
    assert NO_FADES.filters() == []
    assert Fades(0.0, 1e-6, 0.0, 0.0).filters() == []


def test_a_mix_without_fades_is_the_track(track: Track) -> None:
    samples = samples_of(Mix.of(track, NO_FADES, None).blocks())
    np.testing.assert_allclose(samples, samples_of(track.blocks()), atol=1e-7)


def test_fades_are_linear(track: Track) -> None:
    fades = Fades.around(0.5, 1.5, 0.25, 0.5)
    samples = samples_of(Mix.of(track, fades, None).blocks())[0]
    times = np.arange(2 * RATE) / RATE
    gain = np.clip((times - 0.5) / 0.25, 0, 1) * np.clip((1.5 - times) / 0.5, 0, 1)
    np.testing.assert_allclose(samples, samples_of(track.blocks())[0] * gain, atol=1e-4)


def test_both_sounds_are_equally_loud_before_they_are_ducked(track_of: TrackMaker) -> None:
    quiet, loud = track_of(sine(2.0, 1000.0, 0.01)), track_of(sine(2.0, 300.0, 0.4))
    mix = Mix.of(quiet, NO_FADES, loud)
    for track, gain in ((quiet, mix.new_gain_db), (loud, mix.original_gain_db)):
        lufs = measure_loudness(track.blocks()).lufs
        assert lufs is not None
        assert lufs + gain == pytest.approx(-23.0)
    silent = Mix.of(quiet, NO_FADES, track_of(np.zeros((2, 2 * RATE), np.float32)))
    assert silent.original_gain_db == 0.0


def test_amplification_for_ducking_is_bounded() -> None:
    assert audio_mix._ducking_gain(Loudness(-69.0, -60.0)) == pytest.approx(46.0)
    assert audio_mix._ducking_gain(Loudness(-90.0, -80.0)) == 60.0
    assert audio_mix._ducking_gain(Loudness(None, -80.0)) == 0.0


def test_ducking_lowers_the_new_audio_only_while_the_original_is_heard(track_of: TrackMaker) -> None:
    original = sine(4.0, 300.0, 0.1)
    original[:, : 2 * RATE] = 0.0
    mix = Mix(track_of(sine(4.0, 1000.0, 0.1)), NO_FADES, track_of(original))
    samples = samples_of(mix.blocks())
    assert samples.shape == (2, 4 * RATE)
    turning = np.exp(-2j * np.pi * 1000 * np.arange(RATE) / RATE)
    alone, ducked = (abs(np.mean(samples[0, begin * RATE :][:RATE] * turning)) * 2 for begin in (0, 3))
    assert alone == pytest.approx(0.1, rel=0.01)
    assert 6.0 < 20 * math.log10(alone / ducked) < 20.0


@pytest.mark.parametrize("gain", [-6.0, 0.0, 6.0])
def test_a_level_without_a_limiter_is_a_gain(track: Track, gain: float) -> None:
    samples = samples_of(Level(gain, limited=False).applied(Mix.of(track, NO_FADES, None)))
    np.testing.assert_allclose(samples, samples_of(track.blocks()) * 10 ** (gain / 20), atol=1e-5)


def test_a_limiter_holds_true_peaks_below_the_ceiling(track: Track) -> None:
    limited = Level(30.0, limited=True).applied(Mix.of(track, NO_FADES, None))
    assert measure_loudness(limited).true_peak_dbtp <= CEILING_DBTP + 0.3


@pytest.mark.parametrize("target", [-40.0, -23.0, -16.0])
def test_find_level_reaches_the_target(track_of: TrackMaker, target: float) -> None:
    mix = Mix.of(track_of(sine(2.0)), NO_FADES, None)
    level = find_level(mix, target)
    assert not level.limited
    assert measure_loudness(level.applied(mix)).lufs == pytest.approx(target, abs=0.11)


def test_find_level_compensates_for_the_limiter(track_of: TrackMaker) -> None:
    samples = sine(3.0, 1000.0, 0.02)
    samples[:, RATE : RATE + 480] *= 30  # a stroke far above the rest
    mix = Mix.of(track_of(samples), NO_FADES, None)
    level = find_level(mix, -20.0)
    assert level.limited
    result = measure_loudness(level.applied(mix))
    assert result.lufs == pytest.approx(-20.0, abs=0.11)
    assert result.true_peak_dbtp <= CEILING_DBTP + 0.3


def test_the_gain_is_bounded(track_of: TrackMaker) -> None:
    mix = Mix.of(track_of(sine(1.0, 1000.0, 5e-4)), NO_FADES, None)
    before = measure_loudness(mix.blocks()).lufs
    assert before is not None
    assert find_level(mix, -5.0).gain_db <= 60.0


@pytest.mark.parametrize(("amplitude", "limited"), [(0.25, False), (0.95, True)])
def test_audio_without_a_loudness_keeps_its_level(track_of: TrackMaker, amplitude: float, limited: bool) -> None:
    mix = Mix.of(track_of(sine(0.2, 1000.0, amplitude)), NO_FADES, None)
    assert find_level(mix, -23.0) == Level(0.0, limited)


class FakeMeter:
    """Replaces the meter: loudness as a function of the gain, and the gains that were tried."""

    def __init__(self, slope: float, offset: float) -> None:
        self.slope, self.offset = slope, offset
        self.gains: list[float] = []

    def __call__(self, blocks: Iterator[float]) -> Loudness:
        (gain,) = blocks
        self.gains.append(gain)
        return Loudness(self.slope * gain + self.offset, -1.0)


@pytest.mark.parametrize(("slope", "steps"), [(1.0, 2), (0.5, 3), (0.25, 3)])
def test_secant_steps_find_the_gain(slope: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = FakeMeter(slope, -30.0)
    monkeypatch.setattr(audio_mix, "measure_loudness", meter)
    monkeypatch.setattr(Level, "applied", lambda self, mix: iter([self.gain_db]))
    gain = audio_mix._gain_under_limiter(None, -20.0, 5.0)  # type: ignore[arg-type]
    assert slope * gain - 30.0 == pytest.approx(-20.0, abs=0.11)
    assert len(meter.gains) == steps


def test_secant_steps_give_up_when_more_gain_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = FakeMeter(0.0, -30.0)
    monkeypatch.setattr(audio_mix, "measure_loudness", meter)
    monkeypatch.setattr(Level, "applied", lambda self, mix: iter([self.gain_db]))
    assert audio_mix._gain_under_limiter(None, -20.0, 5.0) == 60.0  # type: ignore[arg-type]
    assert len(meter.gains) <= 6


@pytest.mark.parametrize(("amplitude", "silent"), [(0.0, True), (1e-5, True), (1e-4, False), (1.0, False)])
def test_silence_is_below_minus_90_decibels(tmp_path: Path, amplitude: float, silent: bool) -> None:
    with Track(tmp_path, 100) as track:
        track.fill([np.full((2, 100), amplitude, np.float32)])
        assert is_silent(track) == silent
