"""Small real films for the tests of this storey: moving colour gradients and tones, each seed another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmmixer.media.encode import write_film, write_sound

FPS, RATE_HZ, SIDE = 8.0, 8000, 48


def moving_pixels(seconds: float, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    base = chance.integers(30, 226, size=(1, 2, 2, 3)).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    drift = np.arange(round(seconds * FPS)).reshape(-1, 1, 1, 1) * chance.integers(1, 4)
    return np.clip(base + drift % 30, 0, 255).astype(np.uint8)


def tone_samples(seconds: float, seed: int, amplitude: float = 8000.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = 200.0 + 37.0 * (seed % 50)
    return (amplitude * np.sin(2 * np.pi * tone * time + seed)).astype(np.int16)


def film(path: Path, seconds: float = 2.0, seed: int = 0, *, sound: bool = True, amplitude: float = 8000.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(
        path, moving_pixels(seconds, seed), FPS, tone_samples(seconds, seed, amplitude) if sound else None, RATE_HZ
    )
    return path


def sound(path: Path, seconds: float = 2.0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sound(path, tone_samples(seconds, seed), RATE_HZ)
    return path
