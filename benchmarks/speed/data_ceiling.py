"""What feeding cannot be faster than: as many processes that decode a store's JPEGs from memory to memory.

A second ceiling also reads as many bytes as a clip has sound, from a plain file in the system's cache: sound must come from
somewhere, too.

`cmmixer prepare` beside FFmpeg's own command doing the same seeks and scaling, with as many processes.

FFmpeg is given every instant as an input of its own, so that it seeks there, and scales and crops as `prepare` does, with the same
scaler; it writes JPEGs and the whole film's sound at the wanted rate. It takes the first frame from an instant on, not the one on
screen, which is the one before. It reads no manifest, looks for no duplicates, cuts no
windows and writes no table.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.cpu_time import ProcessorTime
from cmmixer.config import ClipSettings, PrepareSettings
from cmmixer.data.clip_encoding import decode_jpeg
from cmmixer.data.clips import ClipRef
from cmmixer.data.dataset import StoreClips
from cmmixer.data.prepare import prepare
from cmmixer.errors import InternalError
from cmmixer.media.timeline import frame_instants
from cmmixer.runtime import keep_freed_memory

# Clips whose JPEGs each process decodes over and over, and sounds of the plain file.
_CLIPS, _SOUNDS = 64, 32


@contextmanager
def ceilings(
    store: StoreClips, folder: Path, workers: int, turn_seconds: float
) -> Iterator[tuple[Callable[[], int], Callable[[], int]]]:
    """Two kinds of work, each about `turn_seconds` long, that say how many clips they did.

    Args:
        store: whose clips.
        folder: for a file of sound.
        workers: processes, ended on leaving.
        turn_seconds: how long a turn takes, roughly.

    Yields:
        Decoding the pictures alone; and reading the sound's bytes once besides.
    """
    clip = store.store.settings
    sound = folder / "sound"
    sound.write_bytes(os.urandom(_SOUNDS * 2 * clip.frames * clip.window_samples))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context, _start, (_jpegs(store), clip, str(sound))) as pool:
        yield (
            _ceiling(pool, _decode, workers, turn_seconds),
            _ceiling(pool, _decode_and_read, workers, turn_seconds),
        )


def _jpegs(store: StoreClips) -> list[list[bytes]]:
    """The pictures of clips from all over the store."""
    rows = np.unique(np.linspace(0, len(store) - 1, _CLIPS).astype(int))
    return store.store.jpegs([store.rows[row] for row in rows])


def _ceiling(
    pool: ProcessPoolExecutor, work: Callable[[int], None], workers: int, turn_seconds: float
) -> Callable[[], int]:
    """Does the work on clips for about `turn_seconds` in every process at once."""
    list(pool.map(work, [1] * workers))
    begun = time.perf_counter()
    list(pool.map(work, [20] * workers))
    clips = max(1, round(20 * turn_seconds / (time.perf_counter() - begun)))

    def read() -> int:
        list(pool.map(work, [clips] * workers))
        return workers * clips

    return read


@dataclass
class _Ready:
    """What a process of the ceiling has in memory."""

    clips: list[list[bytes]]
    planes_CHW: NDArray[np.uint8]
    sound: int
    samples: NDArray[np.int16]


_READY: list[_Ready] = []


def _start(clips: list[list[bytes]], clip: ClipSettings, sound: str) -> None:
    """Runs in a new process, whose memory is kept as a loader's worker keeps it."""
    keep_freed_memory()
    place = np.empty((3, clip.height, clip.width), np.uint8)
    samples = np.empty(clip.frames * clip.window_samples, np.int16)
    _READY.append(_Ready(clips, place, os.open(sound, os.O_RDONLY), samples))


def _decode(clips: int) -> None:
    """Runs in a process that has started."""
    ready = _READY[0]
    for number in range(clips):
        for jpeg in ready.clips[number % len(ready.clips)]:
            decode_jpeg(jpeg, ready.planes_CHW)


def _decode_and_read(clips: int) -> None:
    """Runs in a process that has started."""
    ready = _READY[0]
    for number in range(clips):
        os.preadv(ready.sound, [ready.samples.data], number % _SOUNDS * ready.samples.nbytes)
        for jpeg in ready.clips[number % len(ready.clips)]:
            decode_jpeg(jpeg, ready.planes_CHW)


# Inputs of one command; a long film takes several.
_MOST_INPUTS = 64

# As `cmmixer.media.resize` asks for; a decoder and a filter of one thread each, as many commands as processes.
_SCALER = "bicubic+accurate_rnd+full_chroma_inp"


def timed_prepare(settings: PrepareSettings) -> tuple[float, float]:
    """(seconds, processor seconds) of `prepare` into a new folder."""
    with ProcessorTime() as processor:
        begun = time.perf_counter()
        prepare(settings)
        seconds = time.perf_counter() - begun
    return seconds, processor.seconds


def timed_ffmpeg(refs: Sequence[ClipRef], clip: ClipSettings, workers: int, folder: Path) -> tuple[float, float] | None:
    """(seconds, processor seconds) of FFmpeg on the same clips, so many commands at once; None where it is not installed.

    Raises:
        InternalError: it fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commands = ffmpeg_commands(program, refs, clip, folder)
    with ProcessorTime() as processor, ThreadPoolExecutor(workers) as threads:
        begun = time.perf_counter()
        list(threads.map(_run, commands))
        seconds = time.perf_counter() - begun
    return seconds, processor.seconds


def ffmpeg_commands(program: str, refs: Sequence[ClipRef], clip: ClipSettings, folder: Path) -> list[list[str]]:
    """A command a film, or several for a long one: every frame of its clips, and its sound once."""
    films: dict[str, list[ClipRef]] = defaultdict(list)
    for ref in refs:
        films[ref.path].append(ref)
    fit = (
        f"scale={clip.width}:{clip.height}:force_original_aspect_ratio=increase:flags={_SCALER},"
        f"crop={clip.width}:{clip.height}"
    )
    commands = []
    for number, (path, clips) in enumerate(films.items()):
        instants = [float(instant) for ref in clips for instant in frame_instants(ref.span, clip.frames)]
        for first in range(0, len(instants), _MOST_INPUTS):
            part = instants[first : first + _MOST_INPUTS]
            command = [program, "-nostdin", "-y", "-v", "error", "-filter_threads", "1"]
            for instant in part:
                command += ["-threads", "1", "-an", "-ss", f"{instant:.6f}", "-i", path]
            if first == 0:
                command += ["-threads", "1", "-vn", "-i", clips[0].audio_path or path]
            for place in range(len(part)):
                picture = folder / f"{number}-{first + place}.jpg"
                command += ["-map", f"{place}:v:0", "-frames:v", "1", "-vf", fit, "-threads", "1"]
                command += ["-pix_fmt", "yuvj444p", "-q:v", "2", "-update", "1", "-f", "image2", str(picture)]
            if first == 0:
                command += ["-map", f"{len(part)}:a:0", "-ac", "1", "-ar", str(clip.sample_rate_hz)]
                command += ["-f", "s16le", str(folder / f"{number}.pcm")]
            commands.append(command)
    return commands


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode:
        raise InternalError(f"ffmpeg ended with {done.returncode}: {done.stderr.strip()[-300:]}")
