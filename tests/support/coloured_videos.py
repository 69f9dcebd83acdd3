"""A world small enough to compute by hand: the colour of a video determines its tone, and an encoder knows this rule.

Red goes with 400 Hz, green with 1,000 Hz, blue with 2,500 Hz; a mixed colour with the same mixture of tones. Both modalities
become the unit vector along (red, green, blue, 0.1), so the frames of a video and its sound have a cosine near 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmmixer.config import ClipSettings
from cmmixer.media.encode import write_audio, write_video
from cmmixer.models.retriever import Embedding

CLIP = ClipSettings(frames=2, height=16, width=16, clip_seconds=1.0, window_seconds=0.4, sample_rate_hz=8000)
TONES_HZ = (400.0, 1000.0, 2500.0)
FPS = 8.0
Colour = tuple[float, float, float]
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


class ColourEncoder:
    """Encodes the mean colour of the frames, or the strength of three tones in the windows, as unit vectors of four values."""

    dim = 4
    clip = CLIP

    def __init__(self, name: str = "colours", path: str = "runs/colours") -> None:
        self.id = hashlib.sha256(name.encode()).hexdigest()
        self.path = path
        self.batches: list[int] = []

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        assert pixels_BTCHW.dtype == torch.uint8
        assert pixels_BTCHW.shape[1:] == (CLIP.frames, 3, CLIP.height, CLIP.width)
        self.batches.append(len(pixels_BTCHW))
        colours_BT3 = (pixels_BTCHW.double().mean((3, 4)) / 255 - 0.1).clamp(min=0)
        return _unit(colours_BT3)

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        assert windows_BTN.dtype == torch.int16
        assert windows_BTN.shape[1:] == (CLIP.frames, CLIP.window_samples)
        time_N = torch.arange(CLIP.window_samples, dtype=torch.float64) / CLIP.sample_rate_hz
        waves_3N = torch.exp(2j * torch.pi * torch.tensor(TONES_HZ, dtype=torch.float64)[:, None] * time_N)
        strength_BT3 = (windows_BTN.to(torch.complex128) @ waves_3N.T).abs()
        peak = strength_BT3.amax((1, 2), keepdim=True).clamp(min=1e-9)
        return _unit(strength_BT3 / peak)


def _unit(colours_BT3: Tensor) -> Embedding:
    rest = torch.full_like(colours_BT3[..., :1], 0.1)
    vectors_BTE = torch.nn.functional.normalize(torch.cat([colours_BT3, rest], -1), dim=-1)
    clip_BE = torch.nn.functional.normalize(vectors_BTE.mean(1), dim=-1)
    return Embedding(clip_BE.float(), vectors_BTE.float())


def pixels(colours: Sequence[Colour], seconds_each: float = 1.0) -> np.ndarray:
    """Returns frames uint8 (T, H, W, 3): one colour after the other."""
    frames = round(seconds_each * FPS)
    rows = np.repeat(np.array(colours), frames, axis=0) * 180 + 30
    return np.broadcast_to(rows[:, None, None, :], (len(rows), 32, 32, 3)).astype(np.uint8)


def samples(colours: Sequence[Colour], seconds_each: float = 1.0, rate_hz: int = 16000) -> np.ndarray:
    """Returns samples int16 (N,): the tones of the colours."""
    parts = []
    time = np.arange(round(seconds_each * rate_hz)) / rate_hz
    for colour in colours:
        tones = [weight * np.sin(2 * np.pi * tone * time) for weight, tone in zip(colour, TONES_HZ, strict=True)]
        parts.append(np.sum(tones, axis=0) * 8000)
    return np.concatenate(parts).astype(np.int16)


def video(
    path: Path, colours: Sequence[Colour], *, sound: Sequence[Colour] | None = (), seconds_each: float = 1.0
) -> Path:
    """Writes an mp4 with the tones of its own colours, or of other colours, or (None) without sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tones = None if sound is None else samples(sound or colours, seconds_each)
    write_video(path, pixels(colours, seconds_each), FPS, tones, 16000)
    return path


def sound(path: Path, colours: Sequence[Colour], *, seconds_each: float = 1.0) -> Path:
    """Writes a wav with the tones of these colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, samples(colours, seconds_each), 16000)
    return path


def unit(colour: Colour) -> np.ndarray:
    """Returns the vector of a colour."""
    vector = np.array([*colour, 0.1])
    return vector / np.linalg.norm(vector)
