"""A film plan -> its sound from beginning to end. numpy only.

Pitch and loudness follow the picture at a control rate of about 100 Hz and are interpolated linearly in between; a phase is
the sum of its pitch, so glides have no clicks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmmixer.synthetic.world import Body, FilmPlan, Wheel, loudness, ring_seconds, tremble_hz

Signal = NDArray[np.float32]

_CONTROL_HZ = 100
_ATTACK_SECONDS = 0.004
_BODY_LEVEL = 0.28
_CLICK_LEVEL = 0.35
_CLICK_SECONDS = 0.012
_TREMBLE_DEPTH = 0.85

# Strengths of the harmonics of each shape; partials of the cross lie between harmonics, as a bell's do.
_HARMONICS = {
    "disc": (1.0, 0.08),
    "square": (1.0, 0.0, 0.6, 0.0, 0.45, 0.0, 0.35, 0.0, 0.25),
    "triangle": (0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3),
}
_BELL = ((1.0, 0.8), (2.76, 0.6), (4.07, 0.45), (5.40, 0.35))
_WIND_HZ = 300.0


def hear_film(plan: FilmPlan, duration_seconds: float, sample_rate_hz: int) -> NDArray[np.int16]:
    """The sound of a film.

    Returns:
        int16 (N,), N = round(duration_seconds x sample_rate_hz).
    """
    count = round(duration_seconds * sample_rate_hz)
    chance = np.random.Generator(np.random.SFC64(plan.sound.noise_seed))
    sound = np.zeros(count, np.float32)
    for body in plan.causes.bodies:
        if body.bounce_seconds is None:
            sound += _floating(body, count, sample_rate_hz, chance)
        else:
            _add_all(sound, body.impacts(duration_seconds), _struck(body, sample_rate_hz, chance), sample_rate_hz)
    if plan.causes.wheel is not None:
        _add_all(
            sound, plan.causes.wheel.clicks(duration_seconds), _click(plan.causes.wheel, sample_rate_hz), sample_rate_hz
        )
    sound = _with_echoes(sound, plan.sound.echoes, sample_rate_hz)
    sound *= np.float32(plan.sound.gain)
    sound += white_noise(chance, count, plan.sound.noise)
    return np.asarray(np.rint(np.clip(sound, -1.0, 1.0) * np.float32(32767.0)), dtype=np.int16)


def _floating(body: Body, count: int, rate: int, chance: np.random.Generator) -> Signal:
    """A sound that lasts, its pitch following the height, its loudness the speed."""
    block = max(1, round(rate / _CONTROL_HZ))
    times = np.asarray(np.arange(-(-count // block) + 1) * (block / rate), dtype=np.float64)
    cycles = _cycles(body.frequency_hz(times), block, rate)[:count]
    level = loudness(body.speed(times)) * _tremble(body, times)
    top_hz = float(body.frequency_hz(times).max())
    return _timbre(body.shape, cycles, top_hz, rate, chance) * _smooth(_BODY_LEVEL * level, block)[:count]


def _struck(body: Body, rate: int, chance: np.random.Generator) -> Signal:
    """One impact: a sound that rings out."""
    ring = ring_seconds(body.radius)
    times = np.arange(round(5 * ring * rate)) / rate
    pitch = float(body.frequency_hz(np.zeros(1))[0])
    fade = np.exp(-times / ring) * _tremble(body, times) * np.minimum(1.0, times / _ATTACK_SECONDS)
    return _timbre(body.shape, pitch * times, pitch, rate, chance) * (1.5 * _BODY_LEVEL * fade).astype(np.float32)


def _click(wheel: Wheel, rate: int) -> Signal:
    """A dry click, high above the bodies; the same for every wheel."""
    times = np.arange(round(6 * _CLICK_SECONDS * rate)) / rate
    top = 0.42 * rate
    rattle = np.sin(2 * np.pi * 0.55 * top * times) + np.sin(2 * np.pi * 0.83 * top * times + 1.0)
    return np.asarray(_CLICK_LEVEL * np.exp(-times / _CLICK_SECONDS) * rattle, dtype=np.float32)


def _tremble(body: Body, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roughness: loudness goes up and down as often as the stripes say."""
    if body.stripes == 0:
        return np.ones(len(times))
    return np.asarray(1.0 - _TREMBLE_DEPTH * (0.5 - 0.5 * np.cos(2 * np.pi * tremble_hz(body.stripes) * times)))


def _timbre(shape: str, cycles: NDArray[np.float64], top_hz: float, rate: int, chance: np.random.Generator) -> Signal:
    """The waveform of a shape, root mean square near 0.7, over a phase counted in cycles."""
    if shape == "ring":
        return _wind(cycles, rate, chance)
    if shape == "cross":
        partials = [(ratio, level) for ratio, level in _BELL if ratio * top_hz < 0.45 * rate]
        sound = sum((np.float32(level) * _sine(cycles * ratio) for ratio, level in partials), np.float32(0.0))
        return _levelled(np.asarray(sound, np.float32), [level for _, level in partials])
    levels = [level for k, level in enumerate(_HARMONICS[shape], 1) if k == 1 or k * top_hz < 0.45 * rate]
    return _levelled(_harmonics(cycles, levels), levels)


def _levelled(sound: Signal, levels: list[float]) -> Signal:
    sound *= np.float32(1.0 / np.sqrt(np.sum(np.square(levels))))
    return sound


def _harmonics(cycles: NDArray[np.float64], levels: list[float]) -> Signal:
    """Sum of levels[k - 1] x sin(k x); sin(k x) = 2 cos(x) sin((k - 1) x) - sin((k - 2) x) saves the sines."""
    turn = _turn(cycles)
    before, sine = np.zeros_like(turn), np.sin(turn)
    twice_cosine = 2.0 * np.cos(turn)
    total = np.float32(levels[0]) * sine
    for level in levels[1:]:
        before, sine = sine, twice_cosine * sine - before
        if level:
            total += np.float32(level) * sine
    return total


def _sine(cycles: NDArray[np.float64]) -> Signal:
    return np.sin(_turn(cycles))


def _turn(cycles: NDArray[np.float64]) -> Signal:
    """The angle within its turn; single precision is enough once whole turns are taken off."""
    return ((cycles - np.floor(cycles)) * (2 * np.pi)).astype(np.float32)


def _wind(cycles: NDArray[np.float64], rate: int, chance: np.random.Generator) -> Signal:
    """Noise some hundred hertz wide around the pitch and its double."""
    block = max(1, round(rate / (2 * _WIND_HZ)))
    slow = chance.standard_normal((2, -(-len(cycles) // block) + 1))
    near, far = (_smooth(row, block)[: len(cycles)] for row in slow)
    return np.asarray(1.1 * (near * _sine(cycles) + np.float32(0.5) * far * _sine(2.0 * cycles)), np.float32)


def _cycles(frequency_hz: NDArray[np.float64], block: int, rate: int) -> NDArray[np.float64]:
    """Phase in cycles at every sample, for a pitch known at every `block`-th and linear in between."""
    here, there = frequency_hz[:-1, None] / rate, frequency_hz[1:, None] / rate
    passed = np.concatenate([[0.0], np.cumsum(0.5 * (here + there)[:, 0] * block)])[:-1, None]
    steps = np.arange(block)[None, :]
    return np.asarray((passed + here * steps + (there - here) * (steps**2 / (2.0 * block))).reshape(-1))


def _smooth(values: NDArray[np.float64], block: int) -> Signal:
    """Values known at every `block`-th sample -> at every sample, linear in between."""
    known = values.astype(np.float32)
    steps = (np.arange(block, dtype=np.float32) / block)[None, :]
    return np.asarray(known[:-1, None] + (known[1:] - known[:-1])[:, None] * steps, dtype=np.float32).reshape(-1)


def white_noise(chance: np.random.Generator, count: int, deviation: float) -> Signal:
    """White noise of triangular distribution, from raw bytes: ten times faster than normal numbers."""
    twice = np.frombuffer(chance.bytes(2 * count), np.int8).reshape(2, count)
    # A byte is one of 256 values around -1/2, of variance (256^2 - 1) / 12.
    total: Signal = np.add(twice[0], twice[1], dtype=np.int16).astype(np.float32) + np.float32(1.0)
    total *= np.float32(deviation / np.sqrt(2 * (256**2 - 1) / 12))
    return total


def _add_all(sound: Signal, times: NDArray[np.float64], event: Signal, rate: int) -> None:
    """Adds the same event at several times."""
    for start in np.rint(times * rate).astype(int):
        part = event[: max(0, len(sound) - start)]
        sound[start : start + len(part)] += part


def _with_echoes(sound: Signal, echoes: tuple[tuple[float, float], ...], rate: int) -> Signal:
    wet = sound.copy()
    for delay, strength in echoes:
        late = round(delay * rate)
        wet[late:] += np.float32(strength) * sound[: len(sound) - late]
    return wet
