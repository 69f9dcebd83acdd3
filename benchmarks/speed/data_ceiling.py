"""Upper bounds for loading clips, and `prepare` next to FFmpeg.

Loading: as many processes decode the JPEGs of a store from memory to memory. A second bound also reads as many bytes as a clip has
audio, from a plain file in the page cache.

Preparing: FFmpeg's own command with the same seeks and scaling, with as many processes. Every instant is an input of its own, so that
FFmpeg seeks there; it scales and crops with the same scaler, and writes JPEGs and the whole audio at the same rate. It takes the
first frame after an instant, not the frame on screen, which is the one before. It reads no manifest, finds no duplicates, cuts no
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

from benchmarks.speed.cpu_time import CPUTime
from cmmixer.config import ClipSettings, PrepareSettings
from cmmixer.data.clip_encoding import decode_jpeg
from cmmixer.data.dataset import StoreClips
from cmmixer.data.prepare import prepare
from cmmixer.data.segments import Segment
from cmmixer.errors import InternalError
from cmmixer.media.timeline import frame_instants
from cmmixer.runtime import keep_freed_memory

# Number of clips whose JPEGs each process decodes repeatedly, and of clips whose audio is in the plain file.
_CLIPS, _AUDIO_CLIPS = 64, 32


@contextmanager
def ceilings(
    store: StoreClips, folder: Path, workers: int, turn_seconds: float
) -> Iterator[tuple[Callable[[], int], Callable[[], int]]]:
    """Yields two functions that work for about `turn_seconds` and return the number of clips.

    Args:
        store: the clips.
        folder: for a file of audio.
        workers: number of processes, ended on exit.
        turn_seconds: approximate length of a turn.

    Yields:
        Decoding the JPEGs alone; and also reading the bytes of the audio.
    """
    clip = store.store.settings
    audio = folder / "audio"
    audio.write_bytes(os.urandom(_AUDIO_CLIPS * 2 * clip.frames * clip.window_samples))
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context, _start, (_jpegs(store), clip, str(audio))) as pool:
        yield (
            _ceiling(pool, _decode, workers, turn_seconds),
            _ceiling(pool, _decode_and_read, workers, turn_seconds),
        )


def _jpegs(store: StoreClips) -> list[list[bytes]]:
    """Returns the JPEGs of clips from all over the store."""
    rows = np.unique(np.linspace(0, len(store) - 1, _CLIPS).astype(int))
    return store.store.jpegs([store.rows[row] for row in rows])


def _ceiling(
    pool: ProcessPoolExecutor, work: Callable[[int], None], workers: int, turn_seconds: float
) -> Callable[[], int]:
    """Returns a function that works on clips for about `turn_seconds` in all processes at once."""
    list(pool.map(work, [1] * workers))
    started = time.perf_counter()
    list(pool.map(work, [20] * workers))
    clips = max(1, round(20 * turn_seconds / (time.perf_counter() - started)))

    def read() -> int:
        list(pool.map(work, [clips] * workers))
        return workers * clips

    return read


@dataclass
class _WorkerState:
    """What a process holds in memory."""

    clips: list[list[bytes]]
    planes_CHW: NDArray[np.uint8]
    audio_file: int
    samples: NDArray[np.int16]


_STATE: list[_WorkerState] = []


def _start(clips: list[list[bytes]], clip: ClipSettings, audio_path: str) -> None:
    """Initializes a process; it keeps freed memory, as the workers of a loader do."""
    keep_freed_memory()
    planes_CHW = np.empty((3, clip.height, clip.width), np.uint8)
    samples = np.empty(clip.frames * clip.window_samples, np.int16)
    _STATE.append(_WorkerState(clips, planes_CHW, os.open(audio_path, os.O_RDONLY), samples))


def _decode(clips: int) -> None:
    """Decodes the JPEGs of some clips in an initialized process."""
    state = _STATE[0]
    for number in range(clips):
        for jpeg in state.clips[number % len(state.clips)]:
            decode_jpeg(jpeg, state.planes_CHW)


def _decode_and_read(clips: int) -> None:
    """Reads the audio and decodes the JPEGs of some clips in an initialized process."""
    state = _STATE[0]
    for number in range(clips):
        os.preadv(state.audio_file, [state.samples.data], number % _AUDIO_CLIPS * state.samples.nbytes)
        for jpeg in state.clips[number % len(state.clips)]:
            decode_jpeg(jpeg, state.planes_CHW)


# Inputs of one command; a long video needs several commands.
_MAX_INPUTS = 64

# The scaler of `cmmixer.media.resize`. Decoders and filters use one thread each, and as many commands run as processes.
_SCALER = "bicubic+accurate_rnd+full_chroma_inp"


def timed_prepare(settings: PrepareSettings) -> tuple[float, float]:
    """Runs `prepare` into a new folder and returns its wall and CPU seconds."""
    with CPUTime() as cpu_time:
        started = time.perf_counter()
        prepare(settings)
        seconds = time.perf_counter() - started
    return seconds, cpu_time.seconds


def timed_ffmpeg(
    segments: Sequence[Segment], clip: ClipSettings, workers: int, folder: Path
) -> tuple[float, float] | None:
    """Runs FFmpeg on the same clips, as many commands at once as `workers`, and returns its wall and CPU seconds.

    Returns:
        None if FFmpeg is not installed.

    Raises:
        InternalError: FFmpeg fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commands = ffmpeg_commands(program, segments, clip, folder)
    with CPUTime() as cpu_time, ThreadPoolExecutor(workers) as threads:
        started = time.perf_counter()
        list(threads.map(_run, commands))
        seconds = time.perf_counter() - started
    return seconds, cpu_time.seconds


def ffmpeg_commands(program: str, segments: Sequence[Segment], clip: ClipSettings, folder: Path) -> list[list[str]]:
    """Returns a command per video, or several for a long one: every frame of its clips, and its audio once."""
    videos: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        videos[segment.path].append(segment)
    fit = (
        f"scale={clip.width}:{clip.height}:force_original_aspect_ratio=increase:flags={_SCALER},"
        f"crop={clip.width}:{clip.height}"
    )
    commands = []
    for number, (path, clips) in enumerate(videos.items()):
        instants = [float(instant) for segment in clips for instant in frame_instants(segment.span, clip.frames)]
        for first in range(0, len(instants), _MAX_INPUTS):
            part = instants[first : first + _MAX_INPUTS]
            command = [program, "-nostdin", "-y", "-v", "error", "-filter_threads", "1"]
            for instant in part:
                command += ["-threads", "1", "-an", "-ss", f"{instant:.6f}", "-i", path]
            if first == 0:
                command += ["-threads", "1", "-vn", "-i", clips[0].entry.audio_path or path]
            for place in range(len(part)):
                jpeg = folder / f"{number}-{first + place}.jpg"
                command += ["-map", f"{place}:v:0", "-frames:v", "1", "-vf", fit, "-threads", "1"]
                command += ["-pix_fmt", "yuvj444p", "-q:v", "2", "-update", "1", "-f", "image2", str(jpeg)]
            if first == 0:
                command += ["-map", f"{len(part)}:a:0", "-ac", "1", "-ar", str(clip.sample_rate_hz)]
                command += ["-f", "s16le", str(folder / f"{number}.pcm")]
            commands.append(command)
    return commands


def _run(command: list[str]) -> None:
    completed = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if completed.returncode:
        raise InternalError(f"ffmpeg ended with {completed.returncode}: {completed.stderr.strip()[-300:]}")
