"""Writes synthetic videos to a folder: mp4 files with H.264 and AAC, `manifest.csv` and `causes.jsonl`.

A video appears under its name only when it is complete, so a run that was killed is resumed by calling `synthesize` again.
"""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from cmmixer.config import SynthesizeSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.encode import write_video
from cmmixer.media.sandbox import worker_count
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import explain_full_disk, remove_leftovers, write_atomically
from cmmixer.synthetic.audio import render_audio
from cmmixer.synthetic.render import render_frames
from cmmixer.synthetic.scene import Scene, draw_scene

SAMPLE_RATE_HZ = 16000
_SETTINGS_FILE = "synthetic.json"
_VIDEOS_PER_TASK = 8


@dataclass(frozen=True)
class SynthesizeReport:
    """The result of `cmmixer synthesize`.

    Attributes:
        out: the folder.
        paths: paths of the videos, in order.
        kept: how many of them existed already.
    """

    out: str
    paths: list[Path]
    kept: int

    def as_json(self) -> dict[str, Any]:
        """Returns a summary with counts instead of paths."""
        return {"out": self.out, "videos": len(self.paths), "kept": self.kept}


@accepts_settings(SynthesizeSettings)
def synthesize(settings: SynthesizeSettings, progress: Progress | None = None) -> SynthesizeReport:
    """Writes synthetic videos to a folder; existing videos are kept.

    Raises:
        SettingsError: the folder holds videos generated with other settings.
        DataError: the disk is full, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    folder = Path(settings.out)
    with explain_full_disk(folder, DataError):
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder, settings)
        remove_leftovers(folder)
        paths = [folder / f"{index:06d}.mp4" for index in range(settings.clips)]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        progress.start(len(paths), "making videos")
        progress.advance(len(paths) - len(missing))
        _write_videos(settings, missing, progress)
        _write_lists(folder, settings)
    return SynthesizeReport(settings.out, paths, len(paths) - len(missing))


def _check_folder(folder: Path, settings: SynthesizeSettings) -> None:
    """Records the settings of the videos in a folder; refuses to mix videos of different settings."""
    new = _identity(settings)
    record = folder / _SETTINGS_FILE
    if record.exists():
        old = json.loads(record.read_text())
        count = old.pop("clips", 0)
        changed = ", ".join(f"{key} {old.get(key)} instead of {new[key]}" for key in new if old.get(key) != new[key])
        if changed:
            raise SettingsError(f"--out: {folder} holds videos made with {changed}; give another folder")
        if count > settings.clips:
            raise SettingsError(
                f"--clips: {folder} already holds {count} videos; give {count} or more, or another folder"
            )
    write_atomically(record, json.dumps({**new, "clips": settings.clips}, indent=2) + "\n")


def _identity(settings: SynthesizeSettings) -> dict[str, Any]:
    """Returns the settings that determine a video."""
    names = ("seed", "difficulty", "twins", "twin_ahead_seconds", "seconds", "size", "fps")
    return {key: getattr(settings, key) for key in names}


def _scene(index: int, settings: SynthesizeSettings) -> Scene:
    return draw_scene(
        settings.seed,
        index,
        settings.difficulty,
        twins=settings.twins,
        twin_ahead_seconds=settings.twin_ahead_seconds,
    )


def _write_videos(settings: SynthesizeSettings, indices: list[int], progress: Progress) -> None:
    workers = min(worker_count(settings.workers), -(-len(indices) // _VIDEOS_PER_TASK))
    if workers <= 1:
        for index in indices:
            write_synthetic_video(index, settings)
            progress.advance()
        return
    # A clean server process forks the workers: it has neither torch nor threads.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        for _ in pool.map(partial(write_synthetic_video, settings=settings), indices, chunksize=_VIDEOS_PER_TASK):
            progress.advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def write_synthetic_video(index: int, settings: SynthesizeSettings) -> None:
    """Renders and writes video `index`.

    Raises:
        OSError: the file cannot be written.
    """
    scene = _scene(index, settings)
    frames = max(1, round(settings.seconds * settings.fps))
    pixels_TCHW = render_frames(scene, np.arange(frames) / settings.fps, settings.size, settings.size)
    samples = render_audio(scene, settings.seconds, SAMPLE_RATE_HZ)
    path = Path(settings.out) / f"{index:06d}.mp4"
    try:
        write_video(path, pixels_TCHW.transpose(0, 2, 3, 1), settings.fps, samples, SAMPLE_RATE_HZ)
    except OSError as error:
        # FFmpeg's error classes cannot be pickled, so they would not arrive from another process.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _write_lists(folder: Path, settings: SynthesizeSettings) -> None:
    """Writes `manifest.csv` for training and `causes.jsonl` with what is in each video."""
    rows, causes = io.StringIO(newline=""), []
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["path", "source", "label", "duration"])
    for index in range(settings.clips):
        scene = _scene(index, settings)
        source = f"synthetic-{settings.difficulty}-{settings.seed}-{index:06d}"
        table.writerow([f"{index:06d}.mp4", source, scene.label, f"{settings.seconds:g}"])
        causes.append(json.dumps({"path": f"{index:06d}.mp4", **scene.causes.as_dict()}))
    write_atomically(folder / "manifest.csv", rows.getvalue())
    write_atomically(folder / "causes.jsonl", "\n".join(causes) + "\n")
