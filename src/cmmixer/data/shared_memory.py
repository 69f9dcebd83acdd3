"""Buffers in shared memory in which loader workers assemble batches; each is used again and again.

A batch in newly allocated memory costs more than decoding its frames: the system must supply every page of it, in the
worker and again in the main process. So buffers are allocated once. The main process names a free buffer with each request,
hands out the batch without a copy, and takes the buffer back when the last tensor that views it is gone.

Letters: B clips of a batch, T frames, C = 3 colour channels, H x W pixels, N samples of an audio window.
"""

from __future__ import annotations

import itertools
import os
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.config.clip import ClipSettings
from cmmixer.errors import SettingsError
from cmmixer.types import Batch

_SHARED_MEMORY = "/dev/shm"
_ALIGNMENT = 64


@dataclass(frozen=True)
class SharedBatch:
    """A batch in a buffer of a pool: what a worker sends back instead of the data.

    Attributes:
        pool: number of the pool.
        buffer: index of the buffer.
        ids, labels: of its clips.
    """

    pool: int
    buffer: int
    ids: list[str]
    labels: list[str | None]

    def batch(self) -> Batch:
        """Returns the batch as views of the buffer; called in the process that made the pool."""
        return _POOLS[self.pool].batch(self)

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when `pin_memory=True`."""
        return self.batch().pin_memory()


class SharedBatchPool:
    """Buffers for batches of one geometry.

    Args:
        clip: geometry of the clips.
        batch_size: B.
        count: number of buffers.
        option: the command's option that sets their number; named in the error.

    Raises:
        SettingsError: the system has less free shared memory than the buffers take.
    """

    def __init__(self, clip: ClipSettings, batch_size: int, count: int, option: str = "--num_workers") -> None:
        self.number = next(_POOL_NUMBERS)
        self.video_shape = (batch_size, clip.frames, 3, clip.height, clip.width)
        self.audio_shape = (batch_size, clip.frames, clip.window_samples)
        self._video_bytes = int(np.prod(self.video_shape))
        self._audio_start = _aligned(self._video_bytes)
        self._audio_end = self._audio_start + 2 * int(np.prod(self.audio_shape))
        self.buffer_bytes = _aligned(self._audio_end)
        _check_shared_memory(count * self.buffer_bytes, option)
        self.memory = torch.empty((count, self.buffer_bytes), dtype=torch.uint8)
        self.memory.share_memory_()  # type: ignore[no-untyped-call]
        self._free = list(range(count))
        self._viewed: set[int] = set()
        _POOLS[self.number] = self

    def reclaim(self) -> None:
        """Frees all buffers that no tensor views. Requests of an epoch that was left early are dropped with this."""
        self._free = [buffer for buffer in range(len(self.memory)) if buffer not in self._viewed]

    def acquire(self) -> int | None:
        """Returns a free buffer, or None; a batch without a buffer travels in memory of its own."""
        return self._free.pop() if self._free else None

    def arrays(self, buffer: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Returns a buffer's memory as video uint8 [B, T, C, H, W] and audio int16 [B, T, N]."""
        memory: NDArray[np.uint8] = self.memory[buffer].numpy()
        video = memory[: self._video_bytes].reshape(self.video_shape)
        audio = memory[self._audio_start : self._audio_end].view(np.int16).reshape(self.audio_shape)
        return video, audio

    def batch(self, shared: SharedBatch) -> Batch:
        """Returns the batch in a buffer. The buffer is free again when its tensors, and all views of them, are gone."""
        count, buffer = len(shared.ids), shared.buffer
        self._viewed.add(buffer)
        video, audio = self.arrays(buffer)
        views: set[str] = set()
        return Batch(
            shared.ids,
            shared.labels,
            self._tracked(video[:count], buffer, views, "video"),
            self._tracked(audio[:count], buffer, views, "audio"),
        )

    def _tracked(self, array: NDArray[Any], buffer: int, views: set[str], name: str) -> Tensor:
        """Returns the array as a tensor that reports when it is gone: torch holds the array as long as any view exists."""
        views.add(name)
        weakref.finalize(array, self._release, buffer, views, name).atexit = False
        return torch.from_numpy(array)

    def _release(self, buffer: int, views: set[str], name: str) -> None:
        views.discard(name)
        if not views:
            self._viewed.discard(buffer)
            self._free.append(buffer)

    def __getstate__(self) -> dict[str, Any]:
        # A worker fills buffers; only the main process hands them out.
        return {**self.__dict__, "_free": [], "_viewed": set()}


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _check_shared_memory(needed: int, option: str) -> None:
    """Refuses what does not fit: a process that writes beyond the end of shared memory is killed."""
    if not os.path.isdir(_SHARED_MEMORY):
        return
    status = os.statvfs(_SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise SettingsError(
            f"{option}: the batches under way need {needed / 1e6:.1f} MB of shared memory, {_SHARED_MEMORY} has "
            f"{free / 1e6:.1f} MB free; give fewer workers, a smaller --batch_size or a larger {_SHARED_MEMORY} "
            "(docker run --shm-size)"
        )


_POOL_NUMBERS = itertools.count()
# A batch that comes back from a worker can only name its pool.
_POOLS: weakref.WeakValueDictionary[int, SharedBatchPool] = weakref.WeakValueDictionary()
