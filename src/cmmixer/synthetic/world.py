"""What is in a synthetic film, drawn at random, and the laws by which it sounds.

Causes, seen and heard:

    shape of a body       timbre: a disc sounds pure, a square hollow, a triangle bright, a cross like a bell, a ring like wind
    radius                pitch (large is low) and how long a struck body rings (large is long)
    stripes               roughness: the more stripes, the faster its sound trembles
    height of a floating body     pitch glides up and down with it
    speed of a floating body      loudness; its trail shows the speed
    a bouncing body       is silent but for its impacts; it rises as high as the time between them allows
    spokes of a wheel     clicks, one whenever a spoke passes the clapper on top

Nuisance, which tells nothing: background, colours, silent bodies, camera place, shake and noise; gain, room noise, echoes.
Causes, picture nuisance and sound nuisance are drawn from three generators, so that none of them depends on another.

Places are parts of a square picture: u to the right, v down, both in [0, 1]. Times are seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.config.base import one_of
from cmmixer.config.data import DIFFICULTIES

Times = NDArray[np.float64]

SHAPES = ("disc", "square", "triangle", "cross", "ring")
SILENT_SHAPES = ("bar", "diamond")
FLOOR_V = 0.92

# A bounce of this period rises by half the picture; gravity follows.
_HIGH_BOUNCE_SECONDS = 1.2
GRAVITY = 8 * 0.5 / _HIGH_BOUNCE_SECONDS**2
GLIDE_OCTAVES = 1.6


def pitch_hz(radius: float) -> float:
    """Pitch of a body at half height: 1,374 Hz at radius 0.10, 137 Hz at 0.30."""
    return float(400.0 * (0.18 / radius) ** 2.1)


def ring_seconds(radius: float) -> float:
    """Time in which a struck body's sound falls to 1/e."""
    return 0.04 + 0.9 * radius


def loudness(speed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude of a floating body; speed in picture sides per second."""
    return np.asarray(0.3 + 0.7 * np.minimum(1.0, speed / 0.8), dtype=np.float64)


def tremble_hz(stripes: float) -> float:
    """How often a second the sound of a striped body trembles."""
    return 1.6 * stripes


@dataclass(frozen=True)
class Level:
    """How hard a film is: ranges of the causes and strength of the nuisance.

    Attributes:
        radius: smallest and largest.
        stripes: the choices, or with `smooth` the range between the first and the last.
        smooth: causes are drawn from ranges instead of a few choices.
        wheel: probability of a wheel.
        second_body: probability of a second sounding body.
        silent_bodies: how many bodies are there that do not sound.
        bouncing: probability that a body bounces instead of floating.
        background: how much backgrounds differ, 0 to 1.
        contrast: how far bodies stand out from the background.
        camera_offset, camera_shake: parts of the picture.
        camera_noise: standard deviation, of 255.
        room_noise_db: relative to full scale.
        echoes: how many, and the strength of the first.
        gain_db: either way.
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


@dataclass(frozen=True)
class Wave:
    """A smooth path: middle + sum of amplitude x sin(2 pi (frequency t + phase))."""

    middle: float
    amplitudes: tuple[float, ...]
    frequencies_hz: tuple[float, ...]
    phases: tuple[float, ...]

    def at(self, times: Times) -> Times:
        """Value at each time."""
        turns = np.multiply.outer(times, self.frequencies_hz) + np.asarray(self.phases)
        return np.asarray(self.middle + np.sin(2 * np.pi * turns) @ np.asarray(self.amplitudes), dtype=np.float64)

    def slope(self, times: Times) -> Times:
        """Change per second at each time."""
        rates = 2 * np.pi * np.asarray(self.frequencies_hz)
        turns = np.multiply.outer(times, self.frequencies_hz) + np.asarray(self.phases)
        return np.asarray(np.cos(2 * np.pi * turns) @ (np.asarray(self.amplitudes) * rates), dtype=np.float64)


@dataclass(frozen=True)
class Body:
    """Something that sounds: floating (all the time) or, with a period, bouncing (when it hits the floor)."""

    shape: str
    radius: float
    stripes: float
    u: Wave
    height: Wave
    bounce_seconds: float | None
    bounce_phase: float

    def centres(self, times: Times) -> tuple[Times, Times]:
        """(u, v) of its centre at each time."""
        if self.bounce_seconds is None:
            return self.u.at(times), FLOOR_V - 0.12 - 0.7 * self.height.at(times)
        since = self.since_impact(times)
        rise = 0.5 * GRAVITY * since * (self.bounce_seconds - since)
        return self.u.at(times), FLOOR_V - self.radius - rise

    def since_impact(self, times: Times) -> Times:
        """Seconds since the last impact of a bouncing body."""
        assert self.bounce_seconds is not None
        since = np.mod(times - self.bounce_phase * self.bounce_seconds, self.bounce_seconds)
        return np.asarray(since, dtype=np.float64)

    def impacts(self, duration_seconds: float) -> Times:
        """When a bouncing body hits the floor, from 0 on."""
        assert self.bounce_seconds is not None
        count = int(duration_seconds / self.bounce_seconds) + 1
        times = np.asarray((np.arange(count) + self.bounce_phase) * self.bounce_seconds, dtype=np.float64)
        return times[times < duration_seconds]

    def speed(self, times: Times) -> Times:
        """Speed of a floating body in picture sides per second."""
        return np.hypot(self.u.slope(times), 0.7 * self.height.slope(times))

    def frequency_hz(self, times: Times) -> Times:
        """Pitch at each time."""
        pitch = pitch_hz(self.radius)
        if self.bounce_seconds is not None:
            return np.full(len(times), pitch)
        return np.asarray(pitch * 2.0 ** (GLIDE_OCTAVES * (self.height.at(times) - 0.5)), dtype=np.float64)


@dataclass(frozen=True)
class Wheel:
    """A turning wheel that clicks whenever a spoke passes the clapper above it."""

    spokes: int
    turns_per_second: float
    phase: float
    right: bool

    def clicks(self, duration_seconds: float) -> Times:
        """When it clicks, from 0 on."""
        rate = self.spokes * self.turns_per_second
        first = -(self.phase * self.spokes % 1.0)
        times = np.asarray((np.arange(int(duration_seconds * rate) + 2) + first) / rate, dtype=np.float64)
        return times[(times >= 0) & (times < duration_seconds)]

    def turned(self, times: Times) -> Times:
        """Turns since a spoke stood on top."""
        return self.phase + self.turns_per_second * times

    def since_click(self, times: Times) -> Times:
        """Seconds since the last click."""
        rate = self.spokes * self.turns_per_second
        return np.asarray(np.mod(self.turned(times) * self.spokes, 1.0) / rate, dtype=np.float64)


@dataclass(frozen=True)
class Causes:
    """Everything that is both seen and heard."""

    bodies: tuple[Body, ...]
    wheel: Wheel | None

    def as_dict(self) -> dict[str, Any]:
        """For `causes.jsonl`: the causes, and the laws applied to them."""
        told = dataclasses.asdict(self)
        for row, body in zip(told["bodies"], self.bodies, strict=True):
            row["pitch_hz"] = pitch_hz(body.radius)
            row["tremble_hz"] = tremble_hz(body.stripes)
        return told


@dataclass(frozen=True)
class SilentBody:
    """Something that is seen only."""

    shape: str
    radius: float
    u: Wave
    v: Wave


@dataclass(frozen=True)
class PictureNuisance:
    """What is seen and tells nothing."""

    background: tuple[tuple[float, float, float], tuple[float, float, float]]
    pattern: tuple[float, float, float, float]
    colours: tuple[tuple[float, float, float], ...]
    silent: tuple[SilentBody, ...]
    offset: tuple[float, float]
    shake: tuple[Wave, Wave]
    noise: float
    noise_seed: int


@dataclass(frozen=True)
class SoundNuisance:
    """What is heard and tells nothing."""

    gain: float
    noise: float
    echoes: tuple[tuple[float, float], ...]
    noise_seed: int


@dataclass(frozen=True)
class FilmPlan:
    """One film: causes and nuisance. Rendering it draws nothing at random."""

    causes: Causes
    picture: PictureNuisance
    sound: SoundNuisance

    @property
    def label(self) -> str:
        """Class of the film: the shape of its first body, which is its timbre."""
        return self.causes.bodies[0].shape


def plan_film(
    seed: int, index: int, difficulty: str, *, twins: bool = False, twin_ahead_seconds: float | None = None
) -> FilmPlan:
    """Film `index` of a seed; it depends on nothing else, and shares nothing with films of other seeds.

    Args:
        seed, index: which film.
        difficulty: easy, medium or hard.
        twins: films 2k and 2k + 1 are the same but for their timing: the same bodies move, strike and click at the same
            rates at other times, before the same background and in the same room.
        twin_ahead_seconds: all that happens in film 2k + 1 happens so much earlier than in film 2k; left out, its phases
            are drawn anew.

    Raises:
        SettingsError: an unknown difficulty.
    """
    one_of("difficulty", difficulty, DIFFICULTIES)
    if twins and index % 2:
        first = plan_film(seed, index - 1, difficulty)
        if twin_ahead_seconds is not None:
            return _ahead(first, twin_ahead_seconds)
        return _retimed(first, _generators(seed, index, difficulty)[0])
    level = LEVELS[difficulty]
    causes, picture, sound = _generators(seed, index, difficulty)
    return FilmPlan(_causes(level, causes), _picture_nuisance(level, picture), _sound_nuisance(level, sound))


def _generators(seed: int, index: int, difficulty: str) -> list[np.random.Generator]:
    """Of causes, picture nuisance and sound nuisance."""
    sequence = np.random.SeedSequence(seed, spawn_key=(DIFFICULTIES.index(difficulty), index))
    return [np.random.Generator(np.random.SFC64(child)) for child in sequence.spawn(3)]


def _retimed(plan: FilmPlan, chance: np.random.Generator) -> FilmPlan:
    """The same film with all phases drawn anew."""

    def moved(wave: Wave) -> Wave:
        return dataclasses.replace(wave, phases=tuple(float(phase) for phase in chance.random(len(wave.phases))))

    bodies = tuple(
        dataclasses.replace(body, u=moved(body.u), height=moved(body.height), bounce_phase=float(chance.random()))
        for body in plan.causes.bodies
    )
    wheel = plan.causes.wheel
    if wheel is not None:
        wheel = dataclasses.replace(wheel, phase=float(chance.random()))
    return dataclasses.replace(plan, causes=Causes(bodies, wheel))


def _ahead(plan: FilmPlan, seconds: float) -> FilmPlan:
    """The same film with everything earlier. What trembles does so from the sound's beginning, which is not seen."""

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
        for body in plan.causes.bodies
    )
    wheel = plan.causes.wheel
    if wheel is not None:
        wheel = dataclasses.replace(wheel, phase=float(wheel.turned(np.array(seconds)) % 1.0))
    return dataclasses.replace(plan, causes=Causes(bodies, wheel))


def _causes(level: Level, chance: np.random.Generator) -> Causes:
    count = 2 if chance.random() < level.second_body else 1
    bodies = tuple(_body(level, chance) for _ in range(count))
    wheel = None
    if chance.random() < level.wheel:
        turns = float(chance.uniform(0.7, 1.5)) if level.smooth else 1.0
        wheel = Wheel(int(chance.integers(2, 7)), turns, float(chance.random()), bool(chance.random() < 0.5))
    return Causes(bodies, wheel)


def _body(level: Level, chance: np.random.Generator) -> Body:
    low, high = np.log(level.radius)
    stripes = chance.uniform(level.stripes[0], level.stripes[-1]) if level.smooth else chance.choice(level.stripes)
    bounces = bool(chance.random() < level.bouncing)
    return Body(
        shape=str(chance.choice(SHAPES)),
        radius=float(np.exp(chance.uniform(low, high))),
        stripes=float(stripes),
        u=_wave(chance, float(chance.uniform(0.4, 0.6)), 0.05 if bounces else 0.22, (0.1, 0.5)),
        height=_wave(chance, 0.5, 0.5, (0.08, 0.45)),
        bounce_seconds=float(np.exp(chance.uniform(np.log(0.35), np.log(1.2)))) if bounces else None,
        bounce_phase=float(chance.random()),
    )


def _wave(chance: np.random.Generator, middle: float, reach: float, rates_hz: tuple[float, float]) -> Wave:
    """Two sines that together stay within `reach` of the middle."""
    share = float(chance.uniform(0.35, 0.65))
    rates = chance.uniform(*rates_hz, size=2)
    phases = chance.random(2)
    return Wave(
        middle,
        (reach * share, reach * (1 - share)),
        (float(rates[0]), float(rates[1])),
        (float(phases[0]), float(phases[1])),
    )


def _picture_nuisance(level: Level, chance: np.random.Generator) -> PictureNuisance:
    dark = 0.2 + level.background * chance.uniform(-0.15, 0.15, size=(2, 3))
    bright = np.clip(_colours(chance, 4), 0.0, 1.0)
    # Low contrast pulls the colours towards the middle of the background.
    colours = dark.mean(axis=0) + level.contrast * (bright - dark.mean(axis=0))
    pattern = (
        *chance.uniform(1.0, 5.0, size=2),
        float(chance.random()),
        level.background * float(chance.uniform(0.0, 0.12)),
    )
    return PictureNuisance(
        background=(_triple(dark[0]), _triple(dark[1])),
        pattern=(float(pattern[0]), float(pattern[1]), pattern[2], pattern[3]),
        colours=tuple(_triple(colour) for colour in colours),
        silent=tuple(_silent_body(chance) for _ in range(chance.integers(*level.silent_bodies, endpoint=True))),
        offset=(
            float(chance.uniform(-level.camera_offset, level.camera_offset)),
            float(chance.uniform(-level.camera_offset, level.camera_offset)),
        ),
        shake=(_wave(chance, 0.0, level.camera_shake, (0.5, 3.0)), _wave(chance, 0.0, level.camera_shake, (0.5, 3.0))),
        noise=level.camera_noise * float(chance.uniform(0.5, 1.0)),
        noise_seed=int(chance.integers(1 << 62)),
    )


def _silent_body(chance: np.random.Generator) -> SilentBody:
    return SilentBody(
        shape=str(chance.choice(SILENT_SHAPES)),
        radius=float(chance.uniform(0.06, 0.2)),
        u=_wave(chance, float(chance.uniform(0.2, 0.8)), 0.2, (0.05, 0.5)),
        v=_wave(chance, float(chance.uniform(0.2, 0.7)), 0.2, (0.05, 0.5)),
    )


def _colours(chance: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Bright colours of any hue."""
    hues = chance.random(count)[:, None] + np.array([0.0, 1 / 3, 2 / 3])
    swing = chance.uniform(0.05, 0.25, size=(count, 1))
    return np.asarray(0.75 + swing * np.cos(2 * np.pi * hues), dtype=np.float64)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _sound_nuisance(level: Level, chance: np.random.Generator) -> SoundNuisance:
    count, first = level.echoes
    delays = np.sort(chance.uniform(0.02, 0.2, size=count))
    strengths = first * np.exp(-delays / 0.1) * chance.uniform(0.5, 1.0, size=count)
    return SoundNuisance(
        gain=float(10 ** (chance.uniform(-level.gain_db, level.gain_db) / 20)),
        noise=float(10 ** ((level.room_noise_db + chance.uniform(-6.0, 0.0)) / 20)),
        echoes=tuple((float(delay), float(strength)) for delay, strength in zip(delays, strengths, strict=True)),
        noise_seed=int(chance.integers(1 << 62)),
    )
