"""Draws the scene of a synthetic video at random: its causes, and the nuisance that is unrelated to them.

Nuisance is what a model should ignore: background, colors, silent bodies, camera position, shake and noise; gain, room noise
and echoes. Causes, frame nuisance and audio nuisance come from three random generators, so that none depends on another.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.base import one_of
from cmmixer.config.data import DIFFICULTIES
from cmmixer.synthetic.world import SHAPES, Body, Causes, Wave, Wheel

SILENT_SHAPES = ("bar", "diamond")


@dataclass(frozen=True)
class SilentBody:
    """An object that is seen but never heard."""

    shape: str
    radius: float
    u: Wave
    v: Wave


@dataclass(frozen=True)
class FrameNuisance:
    """What is seen and unrelated to the sound.

    Attributes:
        background: colors at the top and at the bottom.
        pattern: waves across, waves down, phase and strength of the background's pattern.
        colors: two for the bodies that sound, two for the silent ones.
        silent: bodies that do not sound.
        offset: displacement of the camera, (u, v).
        shake: its movement, (u, v).
        noise: standard deviation of the camera noise, of 255.
        noise_seed: of the camera noise.
    """

    background: tuple[tuple[float, float, float], tuple[float, float, float]]
    pattern: tuple[float, float, float, float]
    colors: tuple[tuple[float, float, float], ...]
    silent: tuple[SilentBody, ...]
    offset: tuple[float, float]
    shake: tuple[Wave, Wave]
    noise: float
    noise_seed: int


@dataclass(frozen=True)
class AudioNuisance:
    """What is heard and unrelated to the frames.

    Attributes:
        gain: factor on all that sounds.
        noise: standard deviation of the room noise; full scale is 1.
        echoes: (delay in seconds, strength) of each.
        noise_seed: of the room noise and of the wind of rings.
    """

    gain: float
    noise: float
    echoes: tuple[tuple[float, float], ...]
    noise_seed: int


@dataclass(frozen=True)
class Scene:
    """Everything that determines a video; rendering it draws nothing that depends on any other state."""

    causes: Causes
    frame_nuisance: FrameNuisance
    audio_nuisance: AudioNuisance

    @property
    def label(self) -> str:
        """Class of the video: the shape of its first body, which determines its timbre."""
        return self.causes.bodies[0].shape


@dataclass(frozen=True)
class Level:
    """The difficulty of a video: ranges of its causes and strength of its nuisance.

    Attributes:
        radius: smallest and largest.
        stripes: the choices, or with `smooth` the range from the first to the last.
        smooth: draw causes from ranges instead of a few choices.
        wheel: probability of a wheel.
        second_body: probability of a second sounding body.
        silent_bodies: smallest and largest number of silent bodies.
        bouncing: probability that a body bounces instead of floating.
        background: how much backgrounds vary, 0 to 1.
        contrast: how far bodies stand out from the background.
        camera_offset, camera_shake: largest displacement, in sides of the frame.
        camera_noise: largest standard deviation, of 255.
        room_noise_db: largest level, relative to full scale.
        echoes: their number, and the strength of the first.
        gain_db: largest change of the level in either direction.
    """

    radius: tuple[float, float]
    stripes: tuple[float, ...]
    smooth: bool
    wheel: float
    second_body: float
    silent_bodies: tuple[int, int]
    bouncing: float
    background: float
    contrast: float
    camera_offset: float
    camera_shake: float
    camera_noise: float
    room_noise_db: float
    echoes: tuple[int, float]
    gain_db: float


LEVELS = {
    "easy": Level(
        (0.11, 0.27), (0, 2, 4), False, 1.0, 0.0, (0, 0), 0.3, 0.25, 1.0, 0.01, 0.0, 3.0, -50.0, (1, 0.1), 1.5
    ),
    "medium": Level(
        (0.10, 0.22), (0, 4), True, 0.7, 0.25, (1, 2), 0.4, 1.0, 0.7, 0.05, 0.004, 8.0, -38.0, (3, 0.25), 5.0
    ),
    "hard": Level((0.09, 0.15), (0, 4), True, 0.5, 0.5, (3, 4), 0.4, 1.0, 0.4, 0.10, 0.012, 18.0, -30.0, (5, 0.4), 8.0),
}


def draw_scene(
    seed: int, index: int, difficulty: str, *, twins: bool = False, twin_ahead_seconds: float | None = None
) -> Scene:
    """Draws video `index` of a seed. It depends on nothing else and shares nothing with videos of other seeds.

    Args:
        seed, index: identify the video.
        difficulty: easy, medium or hard.
        twins: make videos 2k and 2k + 1 differ in their timing only: the same bodies move, strike and click at the same rates
            but at other times, before the same background and in the same room.
        twin_ahead_seconds: everything in video 2k + 1 happens this much earlier than in video 2k. If None, its phases are
            drawn again at random.

    Raises:
        SettingsError: an unknown difficulty.
    """
    one_of("difficulty", difficulty, DIFFICULTIES)
    if twins and index % 2:
        first = draw_scene(seed, index - 1, difficulty)
        if twin_ahead_seconds is not None:
            return _ahead(first, twin_ahead_seconds)
        return _with_new_phases(first, _generators(seed, index, difficulty)[0])
    level = LEVELS[difficulty]
    causes_rng, frame_rng, audio_rng = _generators(seed, index, difficulty)
    return Scene(
        _draw_causes(level, causes_rng), _draw_frame_nuisance(level, frame_rng), _draw_audio_nuisance(level, audio_rng)
    )


def _generators(seed: int, index: int, difficulty: str) -> list[np.random.Generator]:
    """Returns the generators of causes, frame nuisance and audio nuisance."""
    sequence = np.random.SeedSequence(seed, spawn_key=(DIFFICULTIES.index(difficulty), index))
    return [np.random.Generator(np.random.SFC64(child)) for child in sequence.spawn(3)]


def _with_new_phases(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns the same scene with all phases drawn again."""

    def moved(wave: Wave) -> Wave:
        return dataclasses.replace(wave, phases=tuple(float(phase) for phase in rng.random(len(wave.phases))))

    bodies = tuple(
        dataclasses.replace(body, u=moved(body.u), height=moved(body.height), bounce_phase=float(rng.random()))
        for body in scene.causes.bodies
    )
    wheel = scene.causes.wheel
    if wheel is not None:
        wheel = dataclasses.replace(wheel, phase=float(rng.random()))
    return dataclasses.replace(scene, causes=Causes(bodies, wheel))


def _ahead(scene: Scene, seconds: float) -> Scene:
    """Returns the same scene with everything earlier, except trembling: it begins with the audio and is not seen."""

    def moved(wave: Wave) -> Wave:
        turns = np.mod(np.asarray(wave.phases) + seconds * np.asarray(wave.frequencies_hz), 1.0)
        return dataclasses.replace(wave, phases=tuple(turns.tolist()))

    bodies = tuple(
        dataclasses.replace(
            body,
            u=moved(body.u),
            height=moved(body.height),
            bounce_phase=(body.bounce_phase - seconds / (body.bounce_seconds or 1.0)) % 1.0,
        )
        for body in scene.causes.bodies
    )
    wheel = scene.causes.wheel
    if wheel is not None:
        wheel = dataclasses.replace(wheel, phase=float(wheel.turned(np.array(seconds)) % 1.0))
    return dataclasses.replace(scene, causes=Causes(bodies, wheel))


# The order of the draws below determines every synthetic video; a change of it changes them all.


def _draw_causes(level: Level, rng: np.random.Generator) -> Causes:
    count = 2 if rng.random() < level.second_body else 1
    bodies = tuple(_draw_body(level, rng) for _ in range(count))
    wheel = None
    if rng.random() < level.wheel:
        turns = float(rng.uniform(0.7, 1.5)) if level.smooth else 1.0
        wheel = Wheel(int(rng.integers(2, 7)), turns, float(rng.random()), bool(rng.random() < 0.5))
    return Causes(bodies, wheel)


def _draw_body(level: Level, rng: np.random.Generator) -> Body:
    low, high = np.log(level.radius)
    stripes = rng.uniform(level.stripes[0], level.stripes[-1]) if level.smooth else rng.choice(level.stripes)
    bounces = bool(rng.random() < level.bouncing)
    return Body(
        shape=str(rng.choice(SHAPES)),
        radius=float(np.exp(rng.uniform(low, high))),
        stripes=float(stripes),
        u=_draw_wave(rng, float(rng.uniform(0.4, 0.6)), 0.05 if bounces else 0.22, (0.1, 0.5)),
        height=_draw_wave(rng, 0.5, 0.5, (0.08, 0.45)),
        bounce_seconds=float(np.exp(rng.uniform(np.log(0.35), np.log(1.2)))) if bounces else None,
        bounce_phase=float(rng.random()),
    )


def _draw_wave(rng: np.random.Generator, middle: float, reach: float, rates_hz: tuple[float, float]) -> Wave:
    """Draws two sines that together stay within `reach` of the middle."""
    first_part = float(rng.uniform(0.35, 0.65))
    rates = rng.uniform(*rates_hz, size=2)
    phases = rng.random(2)
    return Wave(
        middle,
        (reach * first_part, reach * (1 - first_part)),
        (float(rates[0]), float(rates[1])),
        (float(phases[0]), float(phases[1])),
    )


def _draw_frame_nuisance(level: Level, rng: np.random.Generator) -> FrameNuisance:
    dark = 0.2 + level.background * rng.uniform(-0.15, 0.15, size=(2, 3))
    bright = np.clip(_draw_colors(rng, 4), 0.0, 1.0)
    # Low contrast pulls the colors towards the mean of the background.
    colors = dark.mean(axis=0) + level.contrast * (bright - dark.mean(axis=0))
    pattern = (
        *rng.uniform(1.0, 5.0, size=2),
        float(rng.random()),
        level.background * float(rng.uniform(0.0, 0.12)),
    )
    return FrameNuisance(
        background=(_rgb(dark[0]), _rgb(dark[1])),
        pattern=(float(pattern[0]), float(pattern[1]), pattern[2], pattern[3]),
        colors=tuple(_rgb(color) for color in colors),
        silent=tuple(_draw_silent_body(rng) for _ in range(rng.integers(*level.silent_bodies, endpoint=True))),
        offset=(
            float(rng.uniform(-level.camera_offset, level.camera_offset)),
            float(rng.uniform(-level.camera_offset, level.camera_offset)),
        ),
        shake=(
            _draw_wave(rng, 0.0, level.camera_shake, (0.5, 3.0)),
            _draw_wave(rng, 0.0, level.camera_shake, (0.5, 3.0)),
        ),
        noise=level.camera_noise * float(rng.uniform(0.5, 1.0)),
        noise_seed=int(rng.integers(1 << 62)),
    )


def _draw_silent_body(rng: np.random.Generator) -> SilentBody:
    return SilentBody(
        shape=str(rng.choice(SILENT_SHAPES)),
        radius=float(rng.uniform(0.06, 0.2)),
        u=_draw_wave(rng, float(rng.uniform(0.2, 0.8)), 0.2, (0.05, 0.5)),
        v=_draw_wave(rng, float(rng.uniform(0.2, 0.7)), 0.2, (0.05, 0.5)),
    )


def _draw_colors(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draws bright colors of any hue."""
    hues = rng.random(count)[:, None] + np.array([0.0, 1 / 3, 2 / 3])
    swing = rng.uniform(0.05, 0.25, size=(count, 1))
    return np.asarray(0.75 + swing * np.cos(2 * np.pi * hues), dtype=np.float64)


def _rgb(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _draw_audio_nuisance(level: Level, rng: np.random.Generator) -> AudioNuisance:
    count, first = level.echoes
    delays = np.sort(rng.uniform(0.02, 0.2, size=count))
    strengths = first * np.exp(-delays / 0.1) * rng.uniform(0.5, 1.0, size=count)
    return AudioNuisance(
        gain=float(10 ** (rng.uniform(-level.gain_db, level.gain_db) / 20)),
        noise=float(10 ** ((level.room_noise_db + rng.uniform(-6.0, 0.0)) / 20)),
        echoes=tuple((float(delay), float(strength)) for delay, strength in zip(delays, strengths, strict=True)),
        noise_seed=int(rng.integers(1 << 62)),
    )
