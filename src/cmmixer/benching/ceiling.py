"""What feeding cannot be faster than: as many processes that decode a store's JPEGs from memory to memory.

A second ceiling also reads as many bytes as a clip has sound, from a plain file in the system's cache: sound must come from
somewhere, too.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.data.dataset import StoreClips
from cmmixer.data.film_rows import decode_jpeg
from cmmixer.freed_memory import keep_freed_memory

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
