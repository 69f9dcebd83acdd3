"""Renders the frames of a scene at any instants and at any size, and whole clips as arrays. numpy only, no codec.

A frame depends on its instant alone. Positions are fractions of a square frame: u to the right, v down. A frame that is not
square is the middle of the square one, as a decoder would crop it.

Letters: N clips, T instants, H x W pixels, S samples of a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.media.timeline import frame_instants
from cmmixer.synthetic.audio import render_audio, white_noise
from cmmixer.synthetic.scene import Scene, SilentBody, draw_scene
from cmmixer.synthetic.world import FLOOR_V, Body, Times, Wheel
from cmmixer.types import Span

Field = NDArray[np.float32]

_TRAIL_SECONDS = (0.20, 0.10)
_TRAIL_STRENGTH = (0.18, 0.35)
_FLASH_SECONDS = 0.12
_WHEEL_RADIUS = 0.15
_WHEEL_V = FLOOR_V - _WHEEL_RADIUS

# Camera noise is cut from one long strip per video, at an offset that depends on the instant.
_NOISE_OFFSETS = 8191


def render_frames(scene: Scene, times: Times, height: int, width: int) -> NDArray[np.uint8]:
    """Renders the frames on screen at some instants.

    Returns:
        uint8 (T, 3, H, W), red-green-blue.
    """
    canvas = _Canvas(scene, np.asarray(times, dtype=np.float64), height, width)
    nuisance = scene.frame_nuisance
    for number, silent in enumerate(nuisance.silent):
        canvas.draw_silent_body(silent, nuisance.colors[2 + number % 2])
    for number, body in enumerate(scene.causes.bodies):
        canvas.draw_body(body, nuisance.colors[number])
    if scene.causes.wheel is not None:
        canvas.draw_wheel(scene.causes.wheel)
    return canvas.finish(scene)


@dataclass(frozen=True)
class _Stamp:
    """Windows of side x side pixels around a moving point, one per frame; they may reach beyond its edges.

    Attributes:
        top, left: first row and column of each, (T,).
        side: their size in pixels.
        right, down: offset of each pixel from the point, (T, 1, side) and (T, side, 1).
    """

    top: NDArray[np.int_]
    left: NDArray[np.int_]
    side: int
    right: Field
    down: Field


class _Canvas:
    """Frames being drawn, float32 (T, 3, H, W) in [0, 1]."""

    def __init__(self, scene: Scene, times: Times, height: int, width: int) -> None:
        self.times, self.height, self.width = times, height, width
        side = max(height, width)
        self.pixel = 1.0 / side
        # Camera offset and shake move everything: what is at u appears at u + shift.
        nuisance = scene.frame_nuisance
        self.shift_u = (nuisance.offset[0] + nuisance.shake[0].at(times)).astype(np.float32)
        self.shift_v = (nuisance.offset[1] + nuisance.shake[1].at(times)).astype(np.float32)
        self.u_W = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side + 0.5).astype(np.float32)
        self.v_H = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / side + 0.5).astype(np.float32)
        self.pixels = self._background(scene)

    def _background(self, scene: Scene) -> Field:
        """A gradient, a wavy pattern and the floor."""
        top, bottom = (np.asarray(color, np.float32)[:, None, None] for color in scene.frame_nuisance.background)
        waves_u, waves_v, phase, strength = scene.frame_nuisance.pattern
        v = self.v_H[:, None]
        wave = np.sin(2 * np.pi * (waves_u * self.u_W[None, :] + waves_v * v + phase)) * strength
        still = top + (bottom - top) * v + wave.astype(np.float32)
        pixels = np.repeat(still[None].astype(np.float32), len(self.times), axis=0)
        below = np.clip((self.v_H[None] - FLOOR_V - self.shift_v[:, None]) / self.pixel + 0.5, 0, 1)
        pixels += 0.25 * below[:, None, :, None].astype(np.float32)
        return pixels

    def stamp(self, u: Times, v: Times, reach: float) -> _Stamp:
        """Returns square windows of pixels around a moving point, of the same size in all frames."""
        side = 2 * math.ceil(reach / self.pixel) + 2
        left = np.floor((u + self.shift_u - float(self.u_W[0])) / self.pixel).astype(int) - side // 2 + 1
        top = np.floor((v + self.shift_v - float(self.v_H[0])) / self.pixel).astype(int) - side // 2 + 1
        steps = np.arange(side)
        right = (left[:, None] + steps) * self.pixel + self.u_W[0] - (u + self.shift_u)[:, None]
        down = (top[:, None] + steps) * self.pixel + self.v_H[0] - (v + self.shift_v)[:, None]
        return _Stamp(top, left, side, right.astype(np.float32)[:, None, :], down.astype(np.float32)[:, :, None])

    def paint(self, stamp: _Stamp, cover_Thw: Field, color: Field) -> None:
        """Blends a color, broadcastable to (T, 3, h, w), into the frames with opacity `cover`."""
        colors = np.broadcast_to(color, (len(self.times), 3, *color.shape[2:]))
        for frame in range(len(self.times)):
            top, left = int(stamp.top[frame]), int(stamp.left[frame])
            rows, columns = _within(top, stamp.side, self.height), _within(left, stamp.side, self.width)
            part = self.pixels[frame, :, top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
            cover = cover_Thw[frame, rows, columns]
            paint = colors[
                frame,
                :,
                rows if colors.shape[2] > 1 else slice(None),
                columns if colors.shape[3] > 1 else slice(None),
            ]
            part += cover * (paint - part)

    def draw_silent_body(self, body: SilentBody, color: tuple[float, float, float]) -> None:
        """Draws an object that does not sound, a little dimmer than those that do."""
        stamp = self.stamp(body.u.at(self.times), body.v.at(self.times), 1.1 * body.radius)
        outside = _OUTLINES[body.shape](stamp.right, stamp.down, np.float32(body.radius))
        self.paint(stamp, self._cover(outside), _as_paint(color) * np.float32(0.8))

    def draw_body(self, body: Body, color: tuple[float, float, float]) -> None:
        """Draws its trail or the flash of its impact, then the body with its stripes."""
        if body.bounce_seconds is None:
            for seconds_ago, strength in zip(_TRAIL_SECONDS, _TRAIL_STRENGTH, strict=True):
                stamp, cover = self._shape(body, self.times - seconds_ago)
                self.paint(stamp, cover * np.float32(strength), _as_paint(color))
        else:
            self._draw_flash(body)
        stamp, cover = self._shape(body, self.times)
        light = np.clip(2.5 * np.cos(np.pi * body.stripes * (stamp.down / np.float32(body.radius))), -1, 1)
        shade = (0.575 + 0.425 * light if body.stripes > 0 else np.ones((1, 1, 1))).astype(np.float32)
        self.paint(stamp, cover, _as_paint(color) * shade[:, None])

    def _shape(self, body: Body, times: Times) -> tuple[_Stamp, Field]:
        stamp = self.stamp(*body.centers(times), 1.05 * body.radius)
        return stamp, self._cover(_OUTLINES[body.shape](stamp.right, stamp.down, np.float32(body.radius)))

    def _draw_flash(self, body: Body) -> None:
        """Draws a fading light on the floor at the last impact."""
        u = body.u.at(self.times)
        stamp = self.stamp(u, np.full(len(u), FLOOR_V), 0.3)
        glow = np.exp(-body.since_impact(self.times) / _FLASH_SECONDS).astype(np.float32)[:, None, None]
        halo = np.exp(-((stamp.right / np.float32(0.15)) ** 2)) * np.exp(-((stamp.down / np.float32(0.03)) ** 2))
        self.paint(stamp, glow * halo, np.ones((1, 1, 1, 1), np.float32))

    def draw_wheel(self, wheel: Wheel) -> None:
        """Draws rim and spokes, and the clapper, which lights up at a click."""
        center = 1 - _WHEEL_RADIUS - 0.02 if wheel.right else _WHEEL_RADIUS + 0.02
        u, v = np.full(len(self.times), center), np.full(len(self.times), _WHEEL_V)
        stamp = self.stamp(u, v, 1.05 * _WHEEL_RADIUS)
        away = np.hypot(stamp.right, stamp.down)
        angle = np.arctan2(stamp.right, -stamp.down)
        angle -= (2 * np.pi * (wheel.turned(self.times) % 1.0)).astype(np.float32)[:, None, None]
        beside = away * np.abs(np.sin(np.float32(0.5 * wheel.spokes) * angle)) * np.float32(2.0 / wheel.spokes)
        spokes = np.maximum(beside - np.float32(0.014), away - np.float32(_WHEEL_RADIUS))
        rim = np.abs(away - np.float32(_WHEEL_RADIUS - 0.012)) - np.float32(0.012)
        bright = self._cover(np.minimum(spokes, rim))[:, None]
        color = np.float32(0.08) + np.float32(0.84) * bright
        self.paint(stamp, self._cover(away - np.float32(_WHEEL_RADIUS)), color)
        glow = np.exp(-wheel.since_click(self.times) / 0.06).astype(np.float32)
        clapper = self.stamp(u, v - _WHEEL_RADIUS - 0.045, 0.05)
        lit = np.stack([0.5 + 0.5 * glow, 0.25 + 0.75 * glow, 0.25 + 0.6 * glow], axis=1)[:, :, None, None]
        self.paint(
            clapper, self._cover(np.hypot(clapper.right, clapper.down) - np.float32(0.035)), lit.astype(np.float32)
        )

    def _cover(self, outside: Field) -> Field:
        """Converts the distance outside a shape to the part of a pixel that it covers."""
        cover = np.float32(0.5) - outside * np.float32(1 / self.pixel)
        return np.clip(cover, np.float32(0), np.float32(1), out=cover)

    def finish(self, scene: Scene) -> NDArray[np.uint8]:
        """Adds camera noise and converts to 8 bits."""
        values = 3 * self.height * self.width
        rng = np.random.Generator(np.random.SFC64(scene.frame_nuisance.noise_seed))
        strip = white_noise(rng, values + _NOISE_OFFSETS, scene.frame_nuisance.noise)
        self.pixels *= 255.0
        for frame, time in enumerate(self.times):
            start = round(float(time) * 1000) * 7919 % _NOISE_OFFSETS
            self.pixels[frame] += strip[start : start + values].reshape(3, self.height, self.width)
        np.clip(self.pixels, 0, 255, out=self.pixels)
        return (self.pixels + 0.5).astype(np.uint8)


def _within(first: int, count: int, limit: int) -> slice:
    """Returns which of the `count` positions from `first` on lie in [0, limit)."""
    start = min(max(0, -first), count)
    return slice(start, max(start, min(count, limit - first)))


def _as_paint(color: tuple[float, float, float]) -> Field:
    return np.asarray(color, np.float32)[None, :, None, None]


def _disc(right: Field, down: Field, radius: np.float32) -> Field:
    return np.hypot(right, down) - radius


def _square(right: Field, down: Field, radius: np.float32) -> Field:
    return np.maximum(np.abs(right), np.abs(down)) - radius * np.float32(0.88)


def _triangle(right: Field, down: Field, radius: np.float32) -> Field:
    """Equilateral, one corner up."""
    lower = down + radius * np.float32(0.15)
    sides = np.float32(0.866) * np.abs(right) - np.float32(0.5) * lower
    return np.asarray(np.maximum(sides, lower) - radius * np.float32(0.6), dtype=np.float32)


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


@dataclass(frozen=True)
class SyntheticClips:
    """Clips as arrays, one per video.

    Attributes:
        video_NTCHW: uint8 frames.
        audio_NTS: int16 windows of S samples.
        labels: shape of the body that sounds, N class names.
        causes: N descriptions of what is seen and heard, as in `causes.jsonl`.
    """

    video_NTCHW: NDArray[np.uint8]
    audio_NTS: NDArray[np.int16]
    labels: list[str]
    causes: list[dict[str, Any]]


def synthetic_arrays(
    count: int,
    clip: ClipSettings,
    *,
    seed: int,
    difficulty: str,
    first: int = 0,
    twins: bool = False,
    twin_ahead_seconds: float | None = None,
    advance: Callable[[int], None] | None = None,
) -> SyntheticClips:
    """Renders videos `first` to `first + count` of a seed, only at the clip's instants; each video is one clip long.

    Args:
        count: how many videos.
        clip: geometry.
        seed: videos of different seeds share nothing.
        difficulty: easy, medium or hard.
        first: index of the first video; a video does not depend on how many others are rendered.
        twins: make videos 2k and 2k + 1 differ in their timing only.
        twin_ahead_seconds: by how much; see `draw_scene`.
        advance: called with 1 after every video.

    Raises:
        SettingsError: an unknown difficulty.
    """
    video = np.empty((count, clip.frames, 3, clip.height, clip.width), np.uint8)
    audio = np.empty((count, clip.frames, clip.window_samples), np.int16)
    scenes: list[Scene] = []
    for row in range(count):
        scene = draw_scene(seed, first + row, difficulty, twins=twins, twin_ahead_seconds=twin_ahead_seconds)
        video[row], audio[row] = render_clip(scene, clip)
        scenes.append(scene)
        if advance is not None:
            advance(1)
    return SyntheticClips(video, audio, [scene.label for scene in scenes], [scene.causes.as_dict() for scene in scenes])


def render_clip(scene: Scene, clip: ClipSettings) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Renders a video that is one clip long.

    Returns:
        frames, uint8 (T, 3, H, W), and audio windows, int16 (T, S).
    """
    instants = frame_instants(Span(0.0, clip.clip_seconds), clip.frames)
    samples = render_audio(scene, clip.clip_seconds, clip.sample_rate_hz)
    length = clip.window_samples
    windows = np.zeros((clip.frames, length), np.int16)
    for row, instant in enumerate(instants):
        start = round((float(instant) - clip.window_seconds / 2) * clip.sample_rate_hz)
        part = samples[max(0, start) : max(0, start + length)]
        offset = max(0, -start)
        windows[row, offset : offset + len(part)] = part
    return render_frames(scene, instants, clip.height, clip.width), windows
