"""Renders the audio of a scene, with numpy only.

Pitch and loudness follow the scene at a control rate of about 100 Hz and are interpolated linearly in between. A phase is the
sum of its pitch, so glides have no clicks. Letters: N samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmmixer.synthetic.scene import Scene
from cmmixer.synthetic.world import Body, loudness, ring_seconds, tremble_hz

Signal = NDArray[np.float32]

_CONTROL_HZ = 100
_ATTACK_SECONDS = 0.004
_BODY_LEVEL = 0.28
_CLICK_LEVEL = 0.35
_CLICK_SECONDS = 0.012
_TREMBLE_DEPTH = 0.85

# Strengths of the harmonics of each shape. Partials of the cross lie between harmonics, like those of a bell.
_HARMONICS = {
    "disc": (1.0, 0.08),
    "square": (1.0, 0.0, 0.6, 0.0, 0.45, 0.0, 0.35, 0.0, 0.25),
    "triangle": (0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3),
}
_BELL = ((1.0, 0.8), (2.76, 0.6), (4.07, 0.45), (5.40, 0.35))
_WIND_HZ = 300.0


def render_audio(scene: Scene, duration_seconds: float, sample_rate_hz: int) -> NDArray[np.int16]:
    """Renders the audio of a scene from its beginning.

    Returns:
        int16 (N,), N = round(duration_seconds x sample_rate_hz).
    """
    count = round(duration_seconds * sample_rate_hz)
    rng = np.random.Generator(np.random.SFC64(scene.audio_nuisance.noise_seed))
    signal = np.zeros(count, np.float32)
    for body in scene.causes.bodies:
        if body.bounce_seconds is None:
            signal += _floating(body, count, sample_rate_hz, rng)
        else:
            impact = _impact(body, sample_rate_hz, rng)
            _add_at(signal, body.impacts(duration_seconds), impact, sample_rate_hz)
    if scene.causes.wheel is not None:
        _add_at(signal, scene.causes.wheel.clicks(duration_seconds), _click(sample_rate_hz), sample_rate_hz)
    signal = _with_echoes(signal, scene.audio_nuisance.echoes, sample_rate_hz)
    signal *= np.float32(scene.audio_nuisance.gain)
    signal += white_noise(rng, count, scene.audio_nuisance.noise)
    return np.asarray(np.rint(np.clip(signal, -1.0, 1.0) * np.float32(32767.0)), dtype=np.int16)


def _floating(body: Body, count: int, rate: int, rng: np.random.Generator) -> Signal:
    """Continuous sound of a floating body: pitch follows its height, loudness its speed."""
    block = max(1, round(rate / _CONTROL_HZ))
    times = np.asarray(np.arange(-(-count // block) + 1) * (block / rate), dtype=np.float64)
    cycles = _cycles(body.frequency_hz(times), block, rate)[:count]
    level = loudness(body.speed(times)) * _tremble(body, times)
    top_hz = float(body.frequency_hz(times).max())
    return _timbre(body.shape, cycles, top_hz, rate, rng) * _smooth(_BODY_LEVEL * level, block)[:count]


def _impact(body: Body, rate: int, rng: np.random.Generator) -> Signal:
    """Sound of one impact, which decays exponentially."""
    ring = ring_seconds(body.radius)
    times = np.arange(round(5 * ring * rate)) / rate
    pitch = float(body.frequency_hz(np.zeros(1))[0])
    fade = np.exp(-times / ring) * _tremble(body, times) * np.minimum(1.0, times / _ATTACK_SECONDS)
    return _timbre(body.shape, pitch * times, pitch, rate, rng) * (1.5 * _BODY_LEVEL * fade).astype(np.float32)


def _click(rate: int) -> Signal:
    """A dry click, far above the pitch of bodies."""
    times = np.arange(round(6 * _CLICK_SECONDS * rate)) / rate
    top = 0.42 * rate
    rattle = np.sin(2 * np.pi * 0.55 * top * times) + np.sin(2 * np.pi * 0.83 * top * times + 1.0)
    return np.asarray(_CLICK_LEVEL * np.exp(-times / _CLICK_SECONDS) * rattle, dtype=np.float32)


def _tremble(body: Body, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude over time of a striped body: it goes up and down at the rate that the stripes set."""
    if body.stripes == 0:
        return np.ones(len(times))
    return np.asarray(1.0 - _TREMBLE_DEPTH * (0.5 - 0.5 * np.cos(2 * np.pi * tremble_hz(body.stripes) * times)))


def _timbre(shape: str, cycles: NDArray[np.float64], top_hz: float, rate: int, rng: np.random.Generator) -> Signal:
    """Waveform of a shape over a phase in cycles, with a root mean square near 0.7."""
    if shape == "ring":
        return _wind(cycles, rate, rng)
    if shape == "cross":
        partials = [(ratio, level) for ratio, level in _BELL if ratio * top_hz < 0.45 * rate]
        signal = sum((np.float32(level) * _sine(cycles * ratio) for ratio, level in partials), np.float32(0.0))
        return _normalized(np.asarray(signal, np.float32), [level for _, level in partials])
    levels = [level for k, level in enumerate(_HARMONICS[shape], 1) if k == 1 or k * top_hz < 0.45 * rate]
    return _normalized(_harmonics(cycles, levels), levels)


def _normalized(signal: Signal, levels: list[float]) -> Signal:
    """Scales a sum of sines of these amplitudes to the root mean square of a single sine, in place."""
    signal *= np.float32(1.0 / np.sqrt(np.sum(np.square(levels))))
    return signal


def _harmonics(cycles: NDArray[np.float64], levels: list[float]) -> Signal:
    """Sum of levels[k - 1] x sin(k x), with sin(k x) = 2 cos(x) sin((k - 1) x) - sin((k - 2) x) instead of more sines."""
    angle = _angle(cycles)
    before, sine = np.zeros_like(angle), np.sin(angle)
    twice_cosine = 2.0 * np.cos(angle)
    total = np.float32(levels[0]) * sine
    for level in levels[1:]:
        before, sine = sine, twice_cosine * sine - before
        if level:
            total += np.float32(level) * sine
    return total


def _sine(cycles: NDArray[np.float64]) -> Signal:
    return np.sin(_angle(cycles))


def _angle(cycles: NDArray[np.float64]) -> Signal:
    """Angle within a turn; single precision is enough once whole turns are removed."""
    return ((cycles - np.floor(cycles)) * (2 * np.pi)).astype(np.float32)


def _wind(cycles: NDArray[np.float64], rate: int, rng: np.random.Generator) -> Signal:
    """Noise a few hundred hertz wide around the pitch and its octave."""
    block = max(1, round(rate / (2 * _WIND_HZ)))
    slow = rng.standard_normal((2, -(-len(cycles) // block) + 1))
    near, far = (_smooth(row, block)[: len(cycles)] for row in slow)
    return np.asarray(1.1 * (near * _sine(cycles) + np.float32(0.5) * far * _sine(2.0 * cycles)), np.float32)


def _cycles(frequency_hz: NDArray[np.float64], block: int, rate: int) -> NDArray[np.float64]:
    """Phase in cycles at every sample, for a pitch given at every `block`-th sample and linear in between."""
    begin, end = frequency_hz[:-1, None] / rate, frequency_hz[1:, None] / rate
    passed = np.concatenate([[0.0], np.cumsum(0.5 * (begin + end)[:, 0] * block)])[:-1, None]
    steps = np.arange(block)[None, :]
    return np.asarray((passed + begin * steps + (end - begin) * (steps**2 / (2.0 * block))).reshape(-1))


def _smooth(values: NDArray[np.float64], block: int) -> Signal:
    """Interpolates values given at every `block`-th sample linearly to every sample."""
    given = values.astype(np.float32)
    steps = (np.arange(block, dtype=np.float32) / block)[None, :]
    return np.asarray(given[:-1, None] + (given[1:] - given[:-1])[:, None] * steps, dtype=np.float32).reshape(-1)


def white_noise(rng: np.random.Generator, count: int, deviation: float) -> Signal:
    """White noise with a triangular distribution, from raw bytes: ten times faster than normal numbers.

    Returns:
        float32 (N,) with mean 0 and standard deviation `deviation`.
    """
    pairs = np.frombuffer(rng.bytes(2 * count), np.int8).reshape(2, count)
    # A byte is one of 256 values around -1/2, of variance (256^2 - 1) / 12.
    total: Signal = np.add(pairs[0], pairs[1], dtype=np.int16).astype(np.float32) + np.float32(1.0)
    total *= np.float32(deviation / np.sqrt(2 * (256**2 - 1) / 12))
    return total


def _add_at(signal: Signal, times: NDArray[np.float64], event: Signal, rate: int) -> None:
    """Adds the same event at several times, in place."""
    for start in np.rint(times * rate).astype(int):
        part = event[: max(0, len(signal) - start)]
        signal[start : start + len(part)] += part


def _with_echoes(signal: Signal, echoes: tuple[tuple[float, float], ...], rate: int) -> Signal:
    wet = signal.copy()
    for delay_seconds, strength in echoes:
        delay = round(delay_seconds * rate)
        wet[delay:] += np.float32(strength) * signal[: len(signal) - delay]
    return wet
