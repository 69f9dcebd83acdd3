"""What loading processes do: the clips of a batch read in their order, from a store into shared memory, stacked otherwise.

Letters: B clips of a process's batch, T frames, C = 3 colours, H x W pixels, N samples of a sound window.

Batches of a data set in a seeded order that can be entered anywhere.

Everything follows from (seed, epoch, step): the order of an epoch is one permutation of the data set, global batch k is
`order[k*B*W : (k+1)*B*W]`, and process r of W takes rows `[r*B, (r+1)*B)` of it. So two processes of 8 see together
what one process of 16 sees, and an epoch can be entered at any step, with any number of workers.

Letters: B clips of a process's batch, T frames, C = 3 colours, H x W pixels, N samples of a sound window.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cmmixer.data.dataset import ClipDataset, StoreClips
from cmmixer.data.shared_memory import Filled, Slots
from cmmixer.errors import DataError, InputError, MediaError
from cmmixer.runtime import keep_freed_memory
from cmmixer.types import Batch, Clip

# So many films in a row that cannot be decoded are no accident of single files any more.
MOST_FAILURES = 64

# Batches that each worker is ahead.
_AHEAD = 2

# A batch, or where it lies, or why there is none; and the films that could not be decoded on the way.
_Made = tuple[Batch | Filled | InputError, list[MediaError]]


def collate(clips: Sequence[Clip]) -> Batch:
    """Stacks clips that have both picture and sound.

    Raises:
        DataError: a clip lacks one of them.
    """
    pixels, samples = [], []
    for clip in clips:
        if clip.frames is None or clip.sound is None:
            raise DataError(
                f"{clip.id}: training needs picture and sound; it has no {'sound' if clip.frames else 'picture'}"
            )
        pixels.append(clip.frames.pixels_THWC)
        samples.append(clip.sound.samples_TN)
    video_BTHWC = torch.from_numpy(np.stack(pixels))
    return Batch(
        ids=[clip.id for clip in clips],
        labels=[clip.label for clip in clips],
        video_BTCHW=video_BTHWC.permute(0, 1, 4, 2, 3).contiguous(),
        audio_BTN=torch.from_numpy(np.stack(samples)),
    )


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """The order in which an epoch visits the clips; a permutation of `range(count)`."""
    return np.random.default_rng((seed, epoch)).permutation(count) if shuffle else np.arange(count)


@dataclass
class Order:
    """Which rows of the data set a process takes at (epoch, step)."""

    count: int
    seed: int
    shuffle: bool
    batch_size: int
    rank: int
    world: int
    _drawn: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, epoch: int, step: int) -> list[int]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, epoch_order(self.count, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        first = (step * self.world + self.rank) * self.batch_size
        return [int(index) for index in self._drawn[1][first : first + self.batch_size]]


class _Rows(Dataset[_Made]):
    """Batch number `step` of `epoch`, and the failures that were met on the way."""

    def __init__(self, dataset: ClipDataset, order: Order, slots: Slots | None) -> None:
        self.dataset, self.order, self.slots = dataset, order, slots
        self.broken: dict[int, MediaError] = {}

    def __getitem__(self, asked: tuple[int, int, int | None]) -> _Made:
        epoch, step, slot = asked
        indices = self.order.indices(epoch, step)
        try:
            if isinstance(self.dataset, StoreClips):
                return self._stored(self.dataset, indices, slot), []
            return self._decoded(indices)
        except InputError as error:  # from a worker, torch would bury it in a traceback
            return error, []

    def _stored(self, dataset: StoreClips, indices: list[int], slot: int | None) -> Batch | Filled:
        ids, labels = [dataset.ids[index] for index in indices], [dataset.labels[index] for index in indices]
        if self.slots is not None and slot is not None:
            video_BTCHW, audio_BTN = self.slots.arrays(slot)
            dataset.read_into(indices, video_BTCHW[: len(indices)], audio_BTN[: len(indices)])
            return Filled(self.slots.number, slot, ids, labels)
        clip = dataset.store.settings
        video = torch.empty((len(indices), clip.frames, 3, clip.height, clip.width), dtype=torch.uint8)
        audio = torch.empty((len(indices), clip.frames, clip.window_samples), dtype=torch.int16)
        dataset.read_into(indices, video.numpy(), audio.numpy())
        return Batch(ids, labels, video, audio)

    def _decoded(self, indices: list[int]) -> tuple[Batch, list[MediaError]]:
        clips, failures = [], []
        for index, result in zip(indices, self._read(indices), strict=True):
            if isinstance(result, MediaError):
                failures.append(result)
                result = self._replacement(index, failures)
            clips.append(result)
        return collate(clips), failures

    def _read(self, indices: list[int]) -> list[Clip | MediaError]:
        """Reads clips; a file that failed once in this process is not tried again."""
        fresh = [index for index in indices if index not in self.broken]
        found = dict(zip(fresh, self.dataset.read(fresh), strict=True))
        self.broken.update((index, result) for index, result in found.items() if isinstance(result, MediaError))
        return [self.broken[index] if index in self.broken else found[index] for index in indices]

    def _replacement(self, index: int, failures: list[MediaError]) -> Clip:
        """The next clip of another film that can be decoded; the same one whoever asks."""
        sources = self.dataset.sources
        tried = {sources[index]}
        for step in range(1, len(sources)):
            other = (index + step) % len(sources)
            if sources[other] in tried:
                continue
            result = self._read([other])[0]
            if isinstance(result, Clip):
                return result
            tried.add(sources[other])
            if len(tried) > MOST_FAILURES:
                break
        last = failures[-1]
        raise DataError(f"{len(tried)} films in a row could not be decoded, the first one {last.path}: {last.message}")


class Plan(Sampler[tuple[int, int, int | None]]):
    """Says which batches come next, and where they are laid down; the main process sets it before each epoch."""

    def __init__(self, steps: int, slots: Slots | None) -> None:
        self.steps, self.epoch, self.start_step = steps, 0, 0
        self.slots = slots

    def __iter__(self) -> Iterator[tuple[int, int, int | None]]:
        # Asked for its first order, torch has taken back what an epoch that was left had under way.
        if self.slots is not None:
            self.slots.begin()
        for step in range(self.start_step, self.steps):
            yield self.epoch, step, None if self.slots is None else self.slots.take()


def planned(
    dataset: ClipDataset, order: Order, steps: int, *, num_workers: int, pin_memory: bool
) -> tuple[Plan, DataLoader[Any]]:
    """A plan and what loads after it, with slots of its own: workers of a loader that was given up may still write to theirs."""
    slots = None
    if num_workers > 0 and isinstance(dataset, StoreClips):
        # What torch lets each worker work ahead, one batch in use and one that is let go.
        slots = Slots(dataset.store.settings, order.batch_size, num_workers * _AHEAD + 2)
    plan = Plan(steps, slots)
    loader: DataLoader[Any] = DataLoader(
        _Rows(dataset, order, slots),
        sampler=plan,
        batch_size=None,  # the rows are whole batches
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=_AHEAD if num_workers > 0 else None,
        worker_init_fn=_begin_worker,
        multiprocessing_context=_context() if num_workers > 0 else None,
        pin_memory=pin_memory,
    )
    return plan, loader


def tells_of_a_death(fault: Exception) -> bool:
    """Whether torch means a worker that was killed; it has no kind of error of its own for that.

    A batch that a worker had handed over may be out of reach too, because its memory is asked for from the worker.
    """
    if isinstance(fault, RuntimeError):
        return str(fault).startswith("DataLoader worker")
    # What the data set itself raised in a worker begins so.
    return isinstance(fault, EOFError | ConnectionError | FileNotFoundError) and not str(fault).startswith("Caught ")


def _begin_worker(_: int) -> None:
    keep_freed_memory()
    _end_with_main_process()


def _end_with_main_process() -> None:
    """Lets a worker end when the process that it works for is killed.

    torch's own watch looks for the parent, which here is the server that forks the workers; and that stays while they do.
    """
    main_process = multiprocessing.parent_process()
    assert main_process is not None

    def watch() -> None:
        multiprocessing.connection.wait([main_process.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _context() -> str:
    """Lance and decoders keep threads, which a forked copy of this process would lack."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


# So many deaths of loading processes with no batch between them have a reason that stays.
MOST_DEATHS = 3


class ClipBatches:
    """Batches of a data set for one process of a training run. Its workers stay alive from epoch to epoch.

    Attributes:
        skips: the data set's report; files that cannot be decoded while training are added, each once.
        replaced: how many rows of batches were filled with another clip because of them.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        pin_memory: bool = False,
    ) -> None:
        """Plans batches.

        Args:
            dataset: the clips.
            batch_size: B, clips per process and step.
            seed: another seed, another order.
            rank, world: which of how many processes this one is.
            num_workers: loading processes; 0 loads in this one. The batches are the same for any number.
            shuffle: whether the order changes with seed and epoch.
            drop_last: leave out the last clips that do not fill a global batch; without it the last batch is shorter.
            pin_memory: batches arrive in page-locked memory, for copies to a GPU.

        Raises:
            DataError: there are no clips, or with `drop_last` not enough for one step.
        """
        step_clips = batch_size * world
        if len(dataset) < (step_clips if drop_last else 1):
            raise DataError(
                f"{len(dataset)} clips are too few: one step takes {batch_size} clips x {world} processes; "
                "give more films, a smaller --batch_size or a smaller --stride_seconds"
            )
        self.skips = dataset.skips
        self.replaced = 0
        # Without drop_last the last global batch may end before this process's rows.
        self._steps = len(dataset) // step_clips if drop_last else -(-(len(dataset) - rank * batch_size) // step_clips)
        order = Order(len(dataset), seed, shuffle, batch_size, rank, world)
        self._planned = partial(planned, dataset, order, self._steps, num_workers=num_workers, pin_memory=pin_memory)
        self._plan, self._loader = self._planned()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; if a worker is killed, new ones go on behind the last batch.

        Raises:
            DataError: so many films in a row cannot be decoded; or workers died so often in a row that something kills them, as
                the system does when memory runs out.
            StoreError: the clip store is damaged.
        """
        step, deaths = start_step, 0
        while step < self._steps:
            self._plan.epoch, self._plan.start_step = epoch, step
            try:
                for made, failures in self._loader:
                    if isinstance(made, InputError):
                        raise made
                    for failure in failures:
                        self._note(failure)
                    step, deaths = step + 1, 0
                    # Nothing here holds on to it: its memory is wanted for another one.
                    yield made.batch() if isinstance(made, Filled) else made
            except (RuntimeError, EOFError, OSError) as fault:
                if self._loader.num_workers == 0 or not tells_of_a_death(fault):
                    raise
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise DataError(
                        f"--num_workers: {deaths} times in a row a loading process was killed; if memory runs out, give fewer "
                        f"({' '.join(str(fault).split())})"
                    ) from fault
                self._plan, self._loader = self._planned()

    def _note(self, failure: MediaError) -> None:
        self.replaced += 1
        if all(skip.path != failure.path for skip in self.skips):
            self.skips.add(failure.path, failure.reason, failure.message)


@dataclass
class EpochBatches:
    """One epoch of `batches`, from `start_step` on; has a length and can be iterated again."""

    batches: ClipBatches
    epoch: int
    start_step: int

    def __len__(self) -> int:
        return max(len(self.batches) - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches.epoch(self.epoch, self.start_step)


def make_loader(
    dataset: ClipDataset,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    num_workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
) -> EpochBatches:
    """One epoch of batches; see `ClipBatches`, which keeps its workers over many epochs."""
    batches = ClipBatches(
        dataset,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world=world,
        num_workers=num_workers,
        shuffle=shuffle,
        drop_last=drop_last,
    )
    return EpochBatches(batches, epoch, start_step)
