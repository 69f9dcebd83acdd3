"""Synthetic videos as tensors on the device: rendered once, cached, never encoded.

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
from cmmixer.media.mel import MelSpectrogram
from cmmixer.models.frontend import FrontEnd
from cmmixer.synthetic.render import synthetic_arrays
from cmmixer.types import Statistics

# Videos per file of the cache.
CHUNK = 250


@dataclass(frozen=True)
class Videos:
    """One clip per video, on the device.

    Attributes:
        video_NTCHW: uint8 frames.
        decibels_NT1HW: float16 mel spectrograms; computed once, since no cell augments the audio.
        sources: seed and number of each video; identifies it.
        audio_sources: of the videos that the audio comes from; different from `sources` in the regime `pools`.
    """

    video_NTCHW: Tensor
    decibels_NT1HW: Tensor
    sources: tuple[tuple[int, int], ...]
    audio_sources: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def sha256(self) -> str:
        """Returns the hash of the list of videos, which identifies a gallery."""
        return hashlib.sha256(repr(self.sources).encode()).hexdigest()

    def to(self, device: torch.device) -> Videos:
        """Copies the videos to another device."""
        return dataclasses.replace(
            self, video_NTCHW=self.video_NTCHW.to(device), decibels_NT1HW=self.decibels_NT1HW.to(device)
        )

    def statistics(self) -> Statistics:
        """Computes the statistics for normalization on at most 2,000 videos."""
        sample = slice(0, 2000)
        pixels = self.video_NTCHW[sample].float().div_(255).transpose(0, 2).flatten(1)
        decibels = self.decibels_NT1HW[sample].float()
        mean, std = pixels.mean(1).tolist(), pixels.std(1).tolist()
        return Statistics(
            (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), float(decibels.mean()), float(decibels.std()),
            clips=min(len(self), 2000),
        )  # fmt: skip


def combine_unpaired(silent: Videos, sounds: Videos) -> Videos:
    """Combines the frames of some videos with the audio of others, for the regime `pools`.

    Raises:
        ValueError: the numbers differ, or a video is in both sets.
    """
    if len(silent) != len(sounds) or set(silent.sources) & set(sounds.sources):
        raise ValueError("pools: expected as many sounds as silent videos, all of other videos")
    return Videos(silent.video_NTCHW, sounds.decibels_NT1HW, silent.sources, sounds.audio_sources)


class Inputs:
    """Maps clip numbers to normalized frames and mel spectrograms, each float32 [B, T, 3, H, W]."""

    def __init__(self, videos: Videos, clip: ClipSettings, statistics: Statistics) -> None:
        self.videos = videos
        self.frontend = FrontEnd(clip, statistics).to(videos.video_NTCHW.device)

    def __call__(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        video = self.frontend.normalize_video(self.frontend.pixels01(self.videos.video_NTCHW[rows_B]))
        audio = self.frontend.normalize_audio(self.videos.decibels_NT1HW[rows_B].float())
        return video, audio


def load_videos(
    count: int,
    clip: ClipSettings,
    *,
    seed: int,
    difficulty: str,
    cache: Path,
    workers: int,
    report: Callable[[str], None],
    twins: bool = False,
    twin_ahead_seconds: float | None = None,
) -> Videos:
    """Renders the first `count` videos of a seed, or loads them from the cache.

    Args:
        count: number of videos.
        clip: geometry.
        seed: videos of different seeds have nothing in common.
        difficulty: easy, medium or hard.
        cache: folder of rendered videos.
        workers: rendering processes.
        report: receives progress messages.
        twins: videos 2k and 2k + 1 differ in their timing only.
        twin_ahead_seconds: by how much; None: the timing of the second twin is drawn independently.
    """
    kind = f"{difficulty}-twins" if twins else difficulty
    if twin_ahead_seconds is not None:
        kind += f"-{twin_ahead_seconds:g}s"
    folder = cache / f"{kind}-{clip.frames}x{clip.height}x{clip.width}-{clip.clip_seconds:g}s-seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count, CHUNK)
    missing = [first for first in firsts if not _chunk_path(folder, first).exists()]
    if missing:
        report(f"rendering {len(missing) * CHUNK} {difficulty} videos of seed {seed}")
        make = partial(
            _render, count=CHUNK, folder=folder, clip=clip, seed=seed, difficulty=difficulty, twins=twins,
            twin_ahead_seconds=twin_ahead_seconds,
        )  # fmt: skip
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(make, missing))
    frame_chunks: list[NDArray[np.uint8]] = []
    decibel_chunks: list[NDArray[np.float16]] = []
    for first in firsts:
        with np.load(_chunk_path(folder, first)) as chunk:
            frame_chunks.append(chunk["video"])
            decibel_chunks.append(chunk["decibels"])
    video, decibels = np.concatenate(frame_chunks)[:count], np.concatenate(decibel_chunks)[:count]
    sources = tuple((seed, row) for row in range(count))
    return Videos(torch.from_numpy(video), torch.from_numpy(decibels), sources, sources)


def _chunk_path(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.npz"


def _render(
    first: int,
    *,
    count: int,
    folder: Path,
    clip: ClipSettings,
    seed: int,
    difficulty: str,
    twins: bool,
    twin_ahead_seconds: float | None,
) -> None:
    """Renders one chunk into its file, atomically."""
    torch.set_num_threads(1)
    clips = synthetic_arrays(
        count, clip, seed=seed, difficulty=difficulty, first=first, twins=twins, twin_ahead_seconds=twin_ahead_seconds
    )
    mel = MelSpectrogram(clip)
    parts = [mel(part) for part in torch.from_numpy(clips.audio_NTS).split(25)]
    decibels = torch.cat(parts).to(torch.float16).numpy()
    partial_file = folder / f"{first:07d}.part.npz"
    np.savez(partial_file, video=clips.video_NTCHW, decibels=decibels)
    partial_file.replace(_chunk_path(folder, first))
