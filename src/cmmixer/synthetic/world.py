"""The objects of a synthetic video, and the laws that connect what is seen of them to what is heard.

    shape of a body               timbre: a disc sounds pure, a square hollow, a triangle bright, a cross like a bell,
                                  a ring like wind
    radius                        pitch (a large body is low) and how long an impact rings (a large body rings long)
    stripes                       roughness: the more stripes, the faster the loudness trembles
    height of a floating body     pitch, which glides up and down with it
    speed of a floating body      loudness; a trail shows the speed
    bounces of a body             impacts, and silence between them; it rises as high as the time between them allows
    spokes of a wheel             clicks, one whenever a spoke passes the clapper on top

Positions are fractions of a square frame, u to the right and v down, both in [0, 1]. Times are seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

SHAPES = ("disc", "square", "triangle", "cross", "ring")
FLOOR_V = 0.92

# A bounce of this period rises by half the frame; gravity follows.
_HIGH_BOUNCE_SECONDS = 1.2
GRAVITY = 8 * 0.5 / _HIGH_BOUNCE_SECONDS**2
GLIDE_OCTAVES = 1.6


def pitch_hz(radius: float) -> float:
    """Pitch of a body at half height: 1,374 Hz at radius 0.10, 137 Hz at 0.30."""
    return float(400.0 * (0.18 / radius) ** 2.1)


def ring_seconds(radius: float) -> float:
    """Time in which the sound of an impact falls to 1/e."""
    return 0.04 + 0.9 * radius


def loudness(speed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude of a floating body; speed in sides of the frame per second."""
    return np.asarray(0.3 + 0.7 * np.minimum(1.0, speed / 0.8), dtype=np.float64)


def tremble_hz(stripes: float) -> float:
    """Rate at which the loudness of a striped body trembles."""
    return 1.6 * stripes


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
    """An object that sounds: all the time if it floats, or, if it bounces, whenever it hits the floor.

    Attributes:
        shape: one of `SHAPES`.
        radius: half its size.
        stripes: number of stripes; 0 for none.
        u: horizontal position over time.
        height: height of a floating body over time, 0 to 1.
        bounce_seconds: time between two impacts; None if the body floats.
        bounce_phase: time of the first impact as a fraction of `bounce_seconds`.
    """

    shape: str
    radius: float
    stripes: float
    u: Wave
    height: Wave
    bounce_seconds: float | None
    bounce_phase: float

    def centers(self, times: Times) -> tuple[Times, Times]:
        """(u, v) of its center at each time."""
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
        """Times in [0, duration) at which a bouncing body hits the floor."""
        assert self.bounce_seconds is not None
        count = int(duration_seconds / self.bounce_seconds) + 1
        times = np.asarray((np.arange(count) + self.bounce_phase) * self.bounce_seconds, dtype=np.float64)
        return times[times < duration_seconds]

    def speed(self, times: Times) -> Times:
        """Speed of a floating body in sides of the frame per second."""
        return np.hypot(self.u.slope(times), 0.7 * self.height.slope(times))

    def frequency_hz(self, times: Times) -> Times:
        """Pitch at each time."""
        pitch = pitch_hz(self.radius)
        if self.bounce_seconds is not None:
            return np.full(len(times), pitch)
        return np.asarray(pitch * 2.0 ** (GLIDE_OCTAVES * (self.height.at(times) - 0.5)), dtype=np.float64)


@dataclass(frozen=True)
class Wheel:
    """A turning wheel that clicks whenever a spoke passes the clapper above it.

    Attributes:
        spokes: how many.
        turns_per_second: its speed.
        phase: turns since a spoke stood on top, at time 0.
        right: whether it stands on the right side of the frame or on the left.
    """

    spokes: int
    turns_per_second: float
    phase: float
    right: bool

    def clicks(self, duration_seconds: float) -> Times:
        """Times in [0, duration) at which it clicks."""
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
        """Returns a row of `causes.jsonl`: the causes, with the pitch and the trembling that follow from them."""
        row = dataclasses.asdict(self)
        for described, body in zip(row["bodies"], self.bodies, strict=True):
            described["pitch_hz"] = pitch_hz(body.radius)
            described["tremble_hz"] = tremble_hz(body.stripes)
        return row
