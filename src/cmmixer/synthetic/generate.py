"""Synthetic films as real files: mp4 with H.264 and AAC, `manifest.csv`, `causes.jsonl`.

A film appears under its name only when complete, so a run that was killed is continued by calling it again.
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
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.encode import write_film
from cmmixer.media.sandbox import worker_count
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import explain_full_disk, remove_leftovers, write_atomically
from cmmixer.synthetic.audio import hear_film
from cmmixer.synthetic.render import draw_frames
from cmmixer.synthetic.world import FilmPlan, plan_film

SOUND_RATE_HZ = 16000
_SETTINGS_FILE = "synthetic.json"
_FILMS_PER_TASK = 8


@dataclass(frozen=True)
class SynthesizeReport:
    """What `cmmixer synthesize` wrote.

    Attributes:
        out: the folder.
        paths: of the films, in order.
        kept: how many of them were there already.
    """

    out: str
    paths: list[Path]
    kept: int

    def as_json(self) -> dict[str, Any]:
        """Counts, not all the names."""
        return {"out": self.out, "films": len(self.paths), "kept": self.kept}


def synthesize(settings: SynthesizeSettings, progress: Progress | None = None) -> SynthesizeReport:
    """Writes synthetic films to a folder; films that are already there are kept.

    Raises:
        SettingsError: the folder holds films of other settings.
        DataError: the disk is full, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    folder = Path(settings.out)
    with explain_full_disk(folder, DataError):
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, settings)
        remove_leftovers(folder)
        paths = [folder / f"{index:06d}.mp4" for index in range(settings.clips)]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        progress.start(len(paths), "making films")
        progress.advance(len(paths) - len(missing))
        _write_films(settings, missing, progress)
        _write_lists(folder, settings)
    return SynthesizeReport(settings.out, paths, len(paths) - len(missing))


def _claim(folder: Path, settings: SynthesizeSettings) -> None:
    """Notes what the films in a folder are made with, and refuses to mix two kinds of them."""
    ours = _identity(settings)
    note = folder / _SETTINGS_FILE
    if note.exists():
        theirs = json.loads(note.read_text())
        count = theirs.pop("clips", 0)
        theirs = {"twins": False, "twin_ahead_seconds": None, **theirs}  # a folder older than these settings
        other = [key for key in ours if theirs.get(key) != ours[key]]
        if other:
            told = ", ".join(f"{key} {theirs.get(key)} instead of {ours[key]}" for key in other)
            raise SettingsError(f"--out: {folder} holds films made with {told}; give another folder")
        if count > settings.clips:
            raise SettingsError(
                f"--clips: {folder} already holds {count} films; give {count} or more, or another folder"
            )
    write_atomically(note, json.dumps({**ours, "clips": settings.clips}, indent=2) + "\n")


def _identity(settings: SynthesizeSettings) -> dict[str, Any]:
    names = ("seed", "difficulty", "twins", "twin_ahead_seconds", "seconds", "size", "fps")
    return {key: getattr(settings, key) for key in names}


def _plan(index: int, settings: SynthesizeSettings) -> FilmPlan:
    return plan_film(
        settings.seed,
        index,
        settings.difficulty,
        twins=settings.twins,
        twin_ahead_seconds=settings.twin_ahead_seconds,
    )


def _write_films(settings: SynthesizeSettings, indices: list[int], progress: Progress) -> None:
    workers = min(worker_count(settings.workers), -(-len(indices) // _FILMS_PER_TASK))
    if workers <= 1:
        for index in indices:
            write_one(index, settings)
            progress.advance()
        return
    # A clean server process forks the workers: it holds neither torch nor threads.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        for _ in pool.map(partial(write_one, settings=settings), indices, chunksize=_FILMS_PER_TASK):
            progress.advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def write_one(index: int, settings: SynthesizeSettings) -> None:
    """Renders and writes film `index`."""
    plan = _plan(index, settings)
    frames = max(1, round(settings.seconds * settings.fps))
    pixels = draw_frames(plan, np.arange(frames) / settings.fps, settings.size, settings.size)
    sound = hear_film(plan, settings.seconds, SOUND_RATE_HZ)
    path = Path(settings.out) / f"{index:06d}.mp4"
    try:
        write_film(path, pixels.transpose(0, 2, 3, 1), settings.fps, sound, SOUND_RATE_HZ)
    except OSError as error:
        # FFmpeg's own error classes do not survive the way back from another process.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _write_lists(folder: Path, settings: SynthesizeSettings) -> None:
    """`manifest.csv` for training, `causes.jsonl` for people who want to know why."""
    rows, causes = io.StringIO(newline=""), []
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["path", "source", "label", "duration"])
    for index in range(settings.clips):
        plan = _plan(index, settings)
        source = f"synthetic-{settings.difficulty}-{settings.seed}-{index:06d}"
        table.writerow([f"{index:06d}.mp4", source, plan.label, f"{settings.seconds:g}"])
        causes.append(json.dumps({"path": f"{index:06d}.mp4", **plan.causes.as_dict()}))
    write_atomically(folder / "manifest.csv", rows.getvalue())
    write_atomically(folder / "causes.jsonl", "\n".join(causes) + "\n")
