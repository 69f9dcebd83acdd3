"""Clips of synthetic films as tensors that stay on the device: rendered once, kept in a cache, never encoded.

Letters: N clips, T frames, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.config import ClipSettings
from cmmixer.media.mel import MelPictures
from cmmixer.models.frontend import FrontEnd
from cmmixer.synthetic.render import synthetic_arrays
from cmmixer.types import Statistics

CHUNK = 250


@dataclass(frozen=True)
class Films:
    """One clip of each film, on the device.

    Attributes:
        video_NTCHW: uint8 pictures.
        decibels_NT1HW: float16 mel pictures; made once, since no row of the study changes the sound before them.
        sources: seed and number of each film; two sets share a film only if they share one of these.
        sound_sources: of the films that gave the sounds; the same, but in the regime `pools`.
    """

    video_NTCHW: Tensor
    decibels_NT1HW: Tensor
    sources: tuple[tuple[int, int], ...]
    sound_sources: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def sha256(self) -> str:
        """Of the list of films: the name of a gallery."""
        return hashlib.sha256(repr(self.sources).encode()).hexdigest()

    def to(self, device: torch.device) -> Films:
        """The same films on another device."""
        return dataclasses.replace(
            self, video_NTCHW=self.video_NTCHW.to(device), decibels_NT1HW=self.decibels_NT1HW.to(device)
        )

    def statistics(self) -> Statistics:
        """What pictures and mel pictures are standardised with."""
        some = slice(0, 2000)
        pixels = self.video_NTCHW[some].float().div_(255).transpose(0, 2).flatten(1)
        decibels = self.decibels_NT1HW[some].float()
        mean, std = pixels.mean(1).tolist(), pixels.std(1).tolist()
        return Statistics(
            (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), float(decibels.mean()), float(decibels.std()),
            clips=min(len(self), 2000),
        )  # fmt: skip


def unpaired(footage: Films, sounds: Films) -> Films:
    """The regime `pools`: the pictures of some films beside the sounds of others; no sound's own picture is among them.

    Raises:
        ValueError: unequal numbers, or a film that gives both.
    """
    if len(footage) != len(sounds) or set(footage.sources) & set(sounds.sources):
        raise ValueError("pools need as many sounds as footage, and of other films")
    return Films(footage.video_NTCHW, sounds.decibels_NT1HW, footage.sources, sounds.sound_sources)


class Inputs:
    """Numbers of clips -> standardised pictures, each float32 [B, T, 3, H, W]."""

    def __init__(self, films: Films, clip: ClipSettings, statistics: Statistics) -> None:
        self.films = films
        self.frontend = FrontEnd(clip, statistics).to(films.video_NTCHW.device)

    def __call__(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        video = self.frontend.standardise_video(self.frontend.pixels01(self.films.video_NTCHW[rows_B]))
        audio = self.frontend.standardise_audio(self.films.decibels_NT1HW[rows_B].float())
        return video, audio


def films(
    count: int,
    clip: ClipSettings,
    *,
    seed: int,
    difficulty: str,
    cache: Path,
    workers: int,
    told: Callable[[str], None],
    twins: bool = False,
    twin_ahead_seconds: float | None = None,
) -> Films:
    """Renders the first `count` films of a seed, or reads what was rendered before.

    Args:
        count: N.
        clip: geometry.
        seed: films of different seeds share nothing.
        difficulty: easy, medium or hard.
        cache: folder that keeps them.
        workers: processes.
        told: progress in words.
        twins: films 2k and 2k + 1 differ in their timing only.
        twin_ahead_seconds: by how much; left out, their timing is drawn anew.
    """
    kind = f"{difficulty}-twins" if twins else difficulty
    if twin_ahead_seconds is not None:
        kind += f"-{twin_ahead_seconds:g}s"
    folder = cache / f"{kind}-{clip.frames}x{clip.height}x{clip.width}-{clip.clip_seconds:g}s-seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count, CHUNK)
    missing = [first for first in firsts if not _file(folder, first).exists()]
    if missing:
        told(f"rendering {len(missing) * CHUNK} {difficulty} films of seed {seed}")
        make = partial(
            _render, folder=folder, clip=clip, seed=seed, difficulty=difficulty, twins=twins,
            twin_ahead_seconds=twin_ahead_seconds,
        )  # fmt: skip
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(make, missing))
    videos: list[NDArray[np.uint8]] = []
    sounds: list[NDArray[np.float16]] = []
    for first in firsts:
        with np.load(_file(folder, first)) as chunk:
            videos.append(chunk["video"])
            sounds.append(chunk["decibels"])
    video, decibels = np.concatenate(videos)[:count], np.concatenate(sounds)[:count]
    sources = tuple((seed, row) for row in range(count))
    return Films(torch.from_numpy(video), torch.from_numpy(decibels), sources, sources)


def _file(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.npz"


def _render(
    first: int,
    *,
    folder: Path,
    clip: ClipSettings,
    seed: int,
    difficulty: str,
    twins: bool,
    twin_ahead_seconds: float | None,
) -> None:
    """One chunk into its file, which appears whole or not at all."""
    torch.set_num_threads(1)
    clips = synthetic_arrays(
        CHUNK, clip, seed=seed, difficulty=difficulty, first=first, twins=twins, twin_ahead_seconds=twin_ahead_seconds
    )
    mel = MelPictures(clip)
    parts = [mel(part) for part in torch.from_numpy(clips.audio_NTS).split(25)]
    decibels = torch.cat(parts).to(torch.float16).numpy()
    partial_file = folder / f"{first:07d}.part.npz"
    np.savez(partial_file, video=clips.video_NTCHW, decibels=decibels)
    partial_file.replace(_file(folder, first))
