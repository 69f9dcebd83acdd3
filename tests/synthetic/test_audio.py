"""Audio of scenes: the causes determine it, and the fast arithmetic equals the slow one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cmmixer.config.data import DIFFICULTIES
from cmmixer.synthetic.audio import (
    _BELL,
    _HARMONICS,
    _cycles,
    _harmonics,
    _smooth,
    _with_echoes,
    render_audio,
    white_noise,
)
from cmmixer.synthetic.scene import draw_scene
from cmmixer.synthetic.world import FLOOR_V, SHAPES, Wave, Wheel, pitch_hz, tremble_hz
from tests.support.scenes import RATE, body_of, energy, scene_of, strongest_hz

# Every 800th sample of two seconds at 8 kHz.
FROZEN = {
    "easy": [
        -3095,
        2845,
        -948,
        -4467,
        4115,
        -5177,
        7517,
        -7641,
        -7741,
        -7181,
        4809,
        4643,
        -6137,
        -4258,
        4156,
        1892,
        4892,
        -2112,
        -4031,
    ],
    "medium": [
        380,
        -3665,
        -4752,
        3296,
        -166,
        2515,
        -2010,
        -3190,
        486,
        -21,
        595,
        19543,
        864,
        -682,
        -1667,
        3388,
        -3674,
        1118,
        -685,
    ],
    "hard": [
        -3071,
        486,
        -144,
        -110,
        -1253,
        272,
        266,
        3269,
        -1210,
        -833,
        99,
        899,
        -1186,
        -3019,
        -244,
        -7,
        -2314,
        194,
        1051,
    ],
}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_audio_never_changes(difficulty: str) -> None:
    samples = render_audio(draw_scene(7, 0, difficulty), 2.0, 8000)
    assert (samples.dtype, samples.shape) == (np.int16, (16000,))
    # CPUs differ in the last bit of a sine.
    np.testing.assert_allclose(samples[800::800], FROZEN[difficulty], atol=2)


@pytest.mark.parametrize("shape", ["disc", "square"])
def test_a_larger_body_sounds_lower(shape: str) -> None:
    for radius in (0.12, 0.18, 0.25):
        samples = render_audio(scene_of(body_of(shape=shape, radius=radius)), 1.0, RATE)
        assert strongest_hz(samples) == pytest.approx(pitch_hz(radius), rel=0.02)
    assert pitch_hz(0.12) > 2 * pitch_hz(0.18) > 3 * pitch_hz(0.25)


def test_pitch_follows_the_height() -> None:
    rising = body_of(height=Wave(0.5, (0.4, 0.0), (0.25, 0.1), (0.0, 0.0)))
    samples = render_audio(scene_of(rising), 4.0, RATE)
    heights = rising.height.at(np.array([1.0, 3.0]))
    assert heights.tolist() == pytest.approx([0.9, 0.1])
    high, low = strongest_hz(samples[14400:17600]), strongest_hz(samples[46400:49600])
    assert high == pytest.approx(pitch_hz(0.18) * 2 ** (1.6 * 0.4), rel=0.02)
    assert low == pytest.approx(pitch_hz(0.18) / 2 ** (1.6 * 0.4), rel=0.02)
    _, seen_v = rising.centers(np.array([1.0, 3.0]))
    assert seen_v[0] < seen_v[1]


def test_speed_makes_a_body_louder() -> None:
    calm = render_audio(scene_of(body_of()), 2.0, RATE)
    quick = render_audio(scene_of(body_of(u=Wave(0.5, (0.2, 0.0), (0.5, 0.1), (0.0, 0.0)))), 2.0, RATE)
    assert energy(quick, 0.0, 0.3) > 4 * energy(calm, 0.0, 0.3)


def test_stripes_make_the_loudness_tremble() -> None:
    samples = render_audio(scene_of(body_of(radius=0.15, stripes=4.0)), 4.0, RATE).astype(float)
    envelope = np.abs(samples).reshape(-1, 160).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    assert spectrum.argmax() / 4 == pytest.approx(tremble_hz(4.0), abs=0.3)


def test_impacts_are_heard_when_a_body_hits_the_floor() -> None:
    bouncing = body_of(bounce_seconds=0.8, bounce_phase=0.4, radius=0.12)
    samples = render_audio(scene_of(bouncing), 4.0, RATE)
    times = bouncing.impacts(4.0)
    np.testing.assert_allclose(times, [0.32, 1.12, 1.92, 2.72, 3.52])
    _, v = bouncing.centers(times)
    np.testing.assert_allclose(v + bouncing.radius, FLOOR_V, atol=1e-9)
    assert not samples[: round(0.31 * RATE)].any()
    for time in times:
        assert energy(samples, time, 0.05) > 10 * energy(samples, time - 0.06, 0.05)


def test_clicks_are_heard_when_a_spoke_is_on_top() -> None:
    wheel = Wheel(spokes=3, turns_per_second=0.8, phase=0.1, right=True)
    times = wheel.clicks(4.0)
    samples = render_audio(scene_of(wheel=wheel), 4.0, RATE)
    for time in times[1:-1]:
        assert energy(samples, time, 0.03) > 50 * (energy(samples, time - 0.05, 0.04) + 1)


def test_fast_harmonics_are_sums_of_sines() -> None:
    cycles = np.random.default_rng(0).uniform(0, 300, 500)
    levels = [0.7, 0.0, 0.5, 0.2, 0.0, 0.1]
    slow = sum(level * np.sin(2 * np.pi * (k + 1) * cycles) for k, level in enumerate(levels))
    np.testing.assert_allclose(_harmonics(cycles, levels), slow, atol=2e-4)


def test_fast_phase_is_the_sum_of_the_pitch() -> None:
    pitch = np.array([100.0, 200.0, 150.0, 400.0])
    cycles = _cycles(pitch, 50, 8000)
    total, slow = 0.0, []
    for k in range(150):
        slow.append(total)
        here = np.interp(k / 50, np.arange(4), pitch)
        there = np.interp((k + 1) / 50, np.arange(4), pitch)
        total += (here + there) / 2 / 8000
    np.testing.assert_allclose(cycles, slow, atol=1e-9)


def test_fast_noise_is_white() -> None:
    noise = white_noise(np.random.default_rng(0), 200_000, 0.5).astype(float)
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert abs(noise.mean()) < 0.005
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.01


def test_interpolation_is_linear() -> None:
    values = np.array([0.0, 1.0, -1.0, 0.5])
    expected = np.interp(np.arange(12) / 4, np.arange(4), values)
    np.testing.assert_allclose(_smooth(values, 4), expected, atol=1e-6)


def test_echoes_are_delayed_copies() -> None:
    signal = np.zeros(100, np.float32)
    signal[[0, 90]] = 1.0, -1.0
    wet = _with_echoes(signal, ((0.02, 0.5), (0.05, 0.25)), 1000)
    expected = np.zeros(100, np.float32)
    expected[[0, 20, 50, 90]] = 1.0, 0.5, 0.25, -1.0  # the echoes of the second click lie beyond the end
    np.testing.assert_array_equal(wet, expected)
    assert signal[20] == 0.0


def test_gain_and_room_noise() -> None:
    scene = scene_of(body_of())
    louder = dataclasses.replace(scene, audio_nuisance=dataclasses.replace(scene.audio_nuisance, gain=2.0))
    plain = render_audio(scene, 1.0, RATE).astype(float)
    np.testing.assert_allclose(render_audio(louder, 1.0, RATE), 2 * plain, atol=1.5)
    noisy = dataclasses.replace(scene, audio_nuisance=dataclasses.replace(scene.audio_nuisance, noise=0.01))
    noise = render_audio(noisy, 1.0, RATE) - plain
    assert noise.std() / 32767 == pytest.approx(0.01, rel=0.05)


def test_loud_audio_is_clipped_not_wrapped() -> None:
    scene = scene_of(body_of(shape="square"))
    loud = dataclasses.replace(scene, audio_nuisance=dataclasses.replace(scene.audio_nuisance, gain=100.0))
    samples = render_audio(loud, 0.2, RATE)
    assert (samples.min(), samples.max()) == (-32767, 32767)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_timbre_is_about_equally_loud(shape: str) -> None:
    samples = render_audio(scene_of(body_of(shape=shape)), 2.0, RATE) / 32767
    assert samples.std() == pytest.approx(0.28 * 0.3 * np.sqrt(0.5), rel=0.15)  # level x loudness at rest x a sine's


@pytest.mark.parametrize(
    ("shape", "ratios"),
    [
        ("square", [k for k, level in enumerate(_HARMONICS["square"], 1) if level]),
        ("triangle", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("cross", [ratio for ratio, _ in _BELL]),
    ],
)
def test_partials_of_a_timbre(shape: str, ratios: list[float]) -> None:
    samples = render_audio(scene_of(body_of(shape=shape)), 2.0, RATE)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    loud_hz = np.flatnonzero(spectrum > 0.1 * spectrum.max()) / 2
    peaks = {round(hz / 400.0, 1) for hz in loud_hz}
    assert peaks == {round(ratio, 1) for ratio in ratios}


def test_partials_above_the_sample_rate_are_left_out() -> None:
    samples = render_audio(scene_of(body_of(shape="triangle", radius=0.09)), 1.0, 8000)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    # 1,714 Hz: the second harmonic is below 0.45 x 8 kHz, the third would alias.
    loud_hz = np.flatnonzero(spectrum > 0.05 * spectrum.max())
    assert {round(hz / pitch_hz(0.09)) for hz in loud_hz} == {1, 2}


def test_a_ring_sounds_like_wind_around_its_pitch() -> None:
    samples = render_audio(scene_of(body_of(shape="ring")), 4.0, RATE)
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.arange(len(spectrum)) / 4
    near = spectrum[(hertz > 100) & (hertz < 1100)].sum()
    assert near > 0.9 * spectrum.sum()
    assert (spectrum[(hertz > 300) & (hertz < 500)] > spectrum.max() / 1000).mean() > 0.5  # no single line


def test_a_larger_body_rings_longer() -> None:
    ratios = []
    for radius in (0.1, 0.25):
        body = body_of(bounce_seconds=1.2, bounce_phase=0.1, radius=radius)
        samples = render_audio(scene_of(body), 1.2, RATE)
        hit = float(body.impacts(1.2)[0])
        ratios.append(energy(samples, hit + 0.3, 0.1) / energy(samples, hit + 0.02, 0.1))
    assert ratios[1] > 5 * ratios[0]


def test_the_length_is_rounded_to_samples() -> None:
    assert len(render_audio(scene_of(body_of()), 0.10004, RATE)) == 1601
    assert render_audio(scene_of(), 0.1, RATE).tolist() == [0] * 1600
