"""A film plan -> pictures at any instants, at any size. numpy only; every picture is drawn from its instant alone.

Letters: T instants, H x W pixels. Places are parts of a square picture: u to the right, v down. A picture that is not
square is the middle of the square one, as a decoder would crop it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cmmixer.media.synthetic.hear import white_noise
from cmmixer.media.synthetic.world import FLOOR_V, Body, FilmPlan, SilentBody, Times, Wheel

Field = NDArray[np.float32]

_TRAIL_SECONDS = (0.20, 0.10)
_TRAIL_STRENGTH = (0.18, 0.35)
_FLASH_SECONDS = 0.12
_WHEEL_RADIUS = 0.13
_WHEEL_V = FLOOR_V - _WHEEL_RADIUS
# Noise is cut from one long strip per film, at a place that depends on the instant.
_NOISE_SPARE = 8191


def draw_frames(plan: FilmPlan, times: Times, height: int, width: int) -> NDArray[np.uint8]:
    """Pictures of a film at some instants.

    Returns:
        uint8 (T, 3, H, W), red-green-blue.
    """
    canvas = _Canvas(plan, np.asarray(times, dtype=np.float64), height, width)
    picture = plan.picture
    for number, silent in enumerate(picture.silent):
        canvas.silent_body(silent, picture.colours[2 + number % 2])
    for number, body in enumerate(plan.causes.bodies):
        canvas.body(body, picture.colours[number])
    if plan.causes.wheel is not None:
        canvas.wheel(plan.causes.wheel)
    return canvas.finished(plan)


class _Canvas:
    """Pictures in the making, float32 (T, 3, H, W) in [0, 1]."""

    def __init__(self, plan: FilmPlan, times: Times, height: int, width: int) -> None:
        self.times, self.height, self.width = times, height, width
        side = max(height, width)
        self.pixel = 1.0 / side
        # Camera offset and shake move everything; what is at u is seen at u + shift.
        self.shift_u = (plan.picture.offset[0] + plan.picture.shake[0].at(times)).astype(np.float32)
        self.shift_v = (plan.picture.offset[1] + plan.picture.shake[1].at(times)).astype(np.float32)
        self.u_W = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side + 0.5).astype(np.float32)
        self.v_H = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / side + 0.5).astype(np.float32)
        self.pixels = self._background(plan)

    def _background(self, plan: FilmPlan) -> Field:
        """A gradient, a wavy pattern and the floor."""
        top, bottom = (np.asarray(colour, np.float32)[:, None, None] for colour in plan.picture.background)
        waves_u, waves_v, phase, strength = plan.picture.pattern
        v = self.v_H[:, None]
        wave = np.sin(2 * np.pi * (waves_u * self.u_W[None, :] + waves_v * v + phase)) * strength
        still = top + (bottom - top) * v + wave.astype(np.float32)
        pixels = np.repeat(still[None].astype(np.float32), len(self.times), axis=0)
        below = np.clip((self.v_H[None] - FLOOR_V - self.shift_v[:, None]) / self.pixel + 0.5, 0, 1)
        pixels += 0.25 * below[:, None, :, None].astype(np.float32)
        return pixels

    def paint(self, frame: int, box: tuple[slice, slice], cover: Field, colour: Field) -> None:
        """Lays a colour, (3,) or (3, h, w), over a box of one picture, as strongly as `cover` (h, w) says."""
        part = self.pixels[frame, :, box[0], box[1]]
        part += cover * (colour.reshape(3, *(colour.shape[1:] or (1, 1))) - part)

    def box(self, u: float, v: float, reach: float) -> tuple[slice, slice]:
        """The pixels within `reach` of a place."""
        return _range(self.v_H, v, reach, self.pixel), _range(self.u_W, u, reach, self.pixel)

    def around(self, box: tuple[slice, slice], u: float, v: float) -> tuple[Field, Field]:
        """(right, down) of each pixel of a box, from a place: (1, w) and (h, 1)."""
        return self.u_W[None, box[1]] - np.float32(u), self.v_H[box[0], None] - np.float32(v)

    def silent_body(self, body: SilentBody, colour: tuple[float, float, float]) -> None:
        centres_u, centres_v = body.u.at(self.times) + self.shift_u, body.v.at(self.times) + self.shift_v
        dim = np.asarray(colour, np.float32) * np.float32(0.8)
        for frame, (u, v) in enumerate(zip(centres_u, centres_v, strict=True)):
            box = self.box(u, v, 1.1 * body.radius)
            outside = _OUTLINES[body.shape](*self.around(box, u, v), np.float32(body.radius))
            self.paint(frame, box, self._cover(outside), dim)

    def body(self, body: Body, colour: tuple[float, float, float]) -> None:
        """Trail, body with its stripes, and the flash of an impact."""
        paint = np.asarray(colour, np.float32)
        if body.bounce_seconds is None:
            for ago, strength in zip(_TRAIL_SECONDS, _TRAIL_STRENGTH, strict=True):
                self._shape(body, self.times - ago, paint, strength, striped=False)
        else:
            self._flash(body)
        self._shape(body, self.times, paint, 1.0, striped=body.stripes > 0)

    def _shape(self, body: Body, times: Times, colour: Field, strength: float, *, striped: bool) -> None:
        centres_u, centres_v = body.centres(times)
        radius = np.float32(body.radius)
        for frame, (u, v) in enumerate(zip(centres_u + self.shift_u, centres_v + self.shift_v, strict=True)):
            box = self.box(u, v, 1.3 * body.radius)
            right, down = self.around(box, u, v)
            cover = self._cover(_OUTLINES[body.shape](right, down, radius)) * np.float32(strength)
            paint = colour
            if striped:
                light = 0.5 + 0.5 * np.clip(2.5 * np.cos(np.pi * body.stripes * (down / radius)), -1, 1)
                paint = colour[:, None, None] * (0.15 + 0.85 * np.broadcast_to(light, cover.shape)).astype(np.float32)
            self.paint(frame, box, cover, paint)

    def _flash(self, body: Body) -> None:
        """Light on the floor where the body hit it, fading."""
        white = np.ones(3, np.float32)
        glow = np.exp(-body.since_impact(self.times) / _FLASH_SECONDS)
        for frame, (u, strength) in enumerate(zip(body.u.at(self.times) + self.shift_u, glow, strict=True)):
            v = FLOOR_V + float(self.shift_v[frame])
            box = self.box(u, v, 0.3)
            right, down = self.around(box, u, v)
            self.paint(frame, box, np.float32(strength) * np.exp(-((right / 0.15) ** 2) - (down / 0.03) ** 2), white)

    def wheel(self, wheel: Wheel) -> None:
        """Rim, spokes, and the clapper that lights up at a click."""
        place = 1 - _WHEEL_RADIUS - 0.02 if wheel.right else _WHEEL_RADIUS + 0.02
        turned, glow = wheel.turned(self.times), np.exp(-wheel.since_click(self.times) / 0.06)
        for frame in range(len(self.times)):
            u, v = place + float(self.shift_u[frame]), _WHEEL_V + float(self.shift_v[frame])
            box = self.box(u, v, _WHEEL_RADIUS * 1.1)
            right, down = self.around(box, u, v)
            away = np.hypot(right, down).astype(np.float32)
            self.paint(frame, box, self._cover(away - _WHEEL_RADIUS), np.full(3, 0.08, np.float32))
            angle = np.arctan2(right, -down) - np.float32(2 * math.pi * turned[frame])
            beside: Field = away * np.abs(np.sin(0.5 * wheel.spokes * angle)) * np.float32(2.0 / wheel.spokes)
            spokes = np.maximum(beside - 0.014, away - _WHEEL_RADIUS)
            rim = np.abs(away - _WHEEL_RADIUS + 0.012) - 0.012
            self.paint(frame, box, self._cover(np.minimum(spokes, rim)), np.full(3, 0.92, np.float32))
            self._clapper(frame, u, v - _WHEEL_RADIUS - 0.045, float(glow[frame]))

    def _clapper(self, frame: int, u: float, v: float, glow: float) -> None:
        box = self.box(u, v, 0.05)
        right, down = self.around(box, u, v)
        colour = np.asarray([0.5 + 0.5 * glow, 0.25 + 0.75 * glow, 0.25 + 0.6 * glow], np.float32)
        self.paint(frame, box, self._cover(np.hypot(right, down) - 0.035), colour)

    def _cover(self, outside: Field) -> Field:
        """Distance outside a shape -> how much of a pixel it covers."""
        return np.clip(0.5 - outside * np.float32(1 / self.pixel), 0, 1).astype(np.float32)

    def finished(self, plan: FilmPlan) -> NDArray[np.uint8]:
        """Camera noise, then 8 bits."""
        one = 3 * self.height * self.width
        chance = np.random.Generator(np.random.SFC64(plan.picture.noise_seed))
        strip = white_noise(chance, one + _NOISE_SPARE, plan.picture.noise)
        self.pixels *= 255.0
        for frame, time in enumerate(self.times):
            start = round(float(time) * 1000) * 7919 % _NOISE_SPARE
            self.pixels[frame] += strip[start : start + one].reshape(3, self.height, self.width)
        np.clip(self.pixels, 0, 255, out=self.pixels)
        return (self.pixels + 0.5).astype(np.uint8)


def _range(places: Field, centre: float, reach: float, pixel: float) -> slice:
    first = math.floor((centre - reach - float(places[0])) / pixel)
    last = math.ceil((centre + reach - float(places[0])) / pixel) + 1
    return slice(min(max(first, 0), len(places)), min(max(last, 0), len(places)))


def _disc(right: Field, down: Field, radius: np.float32) -> Field:
    return np.hypot(right, down) - radius


def _square(right: Field, down: Field, radius: np.float32) -> Field:
    return np.maximum(np.abs(right), np.abs(down)) - radius * np.float32(0.88)


def _triangle(right: Field, down: Field, radius: np.float32) -> Field:
    """Equilateral, one corner up."""
    lower = down + radius * np.float32(0.15)
    return np.maximum(np.float32(0.866) * np.abs(right) - np.float32(0.5) * lower, lower) - radius * np.float32(0.6)


def _cross(right: Field, down: Field, radius: np.float32) -> Field:
    across, along = np.abs(right), np.abs(down)
    thin = radius * np.float32(0.36)
    return np.minimum(np.maximum(across - radius, along - thin), np.maximum(across - thin, along - radius))


def _ring(right: Field, down: Field, radius: np.float32) -> Field:
    return np.abs(np.hypot(right, down) - radius * np.float32(0.74)) - radius * np.float32(0.26)


def _bar(right: Field, down: Field, radius: np.float32) -> Field:
    return np.maximum(np.abs(right) - radius, np.abs(down) - radius * np.float32(0.22))


def _diamond(right: Field, down: Field, radius: np.float32) -> Field:
    return (np.abs(right) + np.abs(down)) * np.float32(0.707) - radius * np.float32(0.6)


_OUTLINES = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "bar": _bar,
    "diamond": _diamond,
}
