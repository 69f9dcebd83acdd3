"""Small real videos: moving colour gradients and tones, different for each seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmmixer.media.encode import write_audio, write_video

FPS, RATE_HZ, SIDE = 8.0, 8000, 48


def moving_pixels(seconds: float, seed: int) -> np.ndarray:
    """Frames uint8 [F, 48, 48, 3]: four fields of colour that drift at a speed of their own."""
    rng = np.random.default_rng(seed)
    base = rng.integers(30, 226, size=(1, 2, 2, 3)).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    drift = np.arange(round(seconds * FPS)).reshape(-1, 1, 1, 1) * rng.integers(1, 4)
    return np.clip(base + drift % 30, 0, 255).astype(np.uint8)


def tone_samples(seconds: float, seed: int, amplitude: float = 8000.0) -> np.ndarray:
    """Samples int16 [N] of a sine at 8,000 Hz; its pitch follows the seed."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    frequency_hz = 200.0 + 37.0 * (seed % 50)
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time + seed)).astype(np.int16)


def video(path: Path, seconds: float = 2.0, seed: int = 0, *, sound: bool = True, amplitude: float = 8000.0) -> Path:
    """Writes a video; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone_samples(seconds, seed, amplitude) if sound else None
    write_video(path, moving_pixels(seconds, seed), FPS, samples, RATE_HZ)
    return path


def sound(path: Path, seconds: float = 2.0, seed: int = 0) -> Path:
    """Writes an audio file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, tone_samples(seconds, seed), RATE_HZ)
    return path
