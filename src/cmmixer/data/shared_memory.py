"""Shared memory in which workers lay down their batches, used again and again.

A batch that travels in memory of its own costs more than its pictures cost to decode: every page of it is asked of the system
anew, in the worker and here. Slots are laid out once. The main process says with each order which slot to fill, hands its
batch out without a copy, and gives the slot out again when the last tensor that looks into it is gone.

Letters: B clips of a batch, T frames, C = 3 colours, H x W pixels, N samples of a sound window.
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

_SHARED = "/dev/shm"


@dataclass(frozen=True)
class Filled:
    """A batch that lies in a slot of the process which gave the order; what travels is this.

    Attributes:
        pool, slot: where it lies.
        ids, labels: of its clips.
    """

    pool: int
    slot: int
    ids: list[str]
    labels: list[str | None]

    def batch(self) -> Batch:
        """The batch, looking into the slot."""
        return _POOLS[self.pool].batch(self)

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when `pin_memory=True`."""
        return self.batch().pin_memory()


class Slots:
    """Room for so many batches of one geometry.

    Args:
        clip: geometry of the clips.
        batch_size: B.
        count: batches that are under way at once.
        told: what to say of them where they do not fit.

    Raises:
        SettingsError: the system has less shared memory than they take.
    """

    def __init__(self, clip: ClipSettings, batch_size: int, count: int, told: str = "--num_workers") -> None:
        self.number = next(_NUMBERS)
        self.video_shape = (batch_size, clip.frames, 3, clip.height, clip.width)
        self.audio_shape = (batch_size, clip.frames, clip.window_samples)
        self._video_bytes = int(np.prod(self.video_shape))
        self._audio_begins = -(-self._video_bytes // 64) * 64
        self.slot_bytes = -(-(self._audio_begins + 2 * int(np.prod(self.audio_shape))) // 64) * 64
        _refuse_too_little(count * self.slot_bytes, told)
        self.memory = torch.empty((count, self.slot_bytes), dtype=torch.uint8)
        self.memory.share_memory_()  # type: ignore[no-untyped-call]
        self._free = list(range(count))
        self._held: set[int] = set()
        _POOLS[self.number] = self

    def begin(self) -> None:
        """All slots but those that somebody still looks into are free: an epoch that was left may have orders under way."""
        self._free = [slot for slot in range(len(self.memory)) if slot not in self._held]

    def take(self) -> int | None:
        """A free slot, if there is one; a batch without one travels by itself."""
        return self._free.pop() if self._free else None

    def arrays(self, slot: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """The slot's memory as video uint8 [B, T, C, H, W] and audio int16 [B, T, N]."""
        flat: NDArray[np.uint8] = self.memory[slot].numpy()
        video = flat[: self._video_bytes].reshape(self.video_shape)
        audio_end = self._audio_begins + 2 * int(np.prod(self.audio_shape))
        return video, flat[self._audio_begins : audio_end].view(np.int16).reshape(self.audio_shape)

    def batch(self, filled: Filled) -> Batch:
        """The batch in a slot; the slot is free again when its tensors, and all that share their memory, are gone."""
        count, slot = len(filled.ids), filled.slot
        self._held.add(slot)
        video, audio = self.arrays(slot)
        looking: set[str] = set()
        return Batch(
            filled.ids,
            filled.labels,
            self._watched(video[:count], slot, looking, "video"),
            self._watched(audio[:count], slot, looking, "audio"),
        )

    def _watched(self, part: NDArray[Any], slot: int, looking: set[str], name: str) -> Tensor:
        """A part of a slot as a tensor that says when it is gone: torch holds the array, whatever views are taken."""
        looking.add(name)
        weakref.finalize(part, self._let_go, slot, looking, name).atexit = False
        return torch.from_numpy(part)

    def _let_go(self, slot: int, looking: set[str], name: str) -> None:
        looking.discard(name)
        if not looking:
            self._held.discard(slot)
            self._free.append(slot)

    def __getstate__(self) -> dict[str, Any]:
        # A worker fills slots and gives none out.
        return {**self.__dict__, "_free": [], "_held": set()}


def _refuse_too_little(needed: int, told: str) -> None:
    """Beyond its end shared memory kills whoever writes to it."""
    if not os.path.isdir(_SHARED):
        return
    there = os.statvfs(_SHARED)
    free = there.f_bavail * there.f_frsize
    if needed > free:
        raise SettingsError(
            f"{told}: the batches under way need {needed / 1e6:.1f} MB of shared memory, {_SHARED} has {free / 1e6:.1f} MB free; "
            f"give fewer workers, a smaller --batch_size or a larger {_SHARED} (docker run --shm-size)"
        )


_NUMBERS = itertools.count()
# By number, since what comes back from a worker can only name it.
_POOLS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()
