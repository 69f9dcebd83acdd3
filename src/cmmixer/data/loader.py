"""Batches of a data set, loaded by worker processes in the order of `cmmixer.data.sampler`.

A worker reads clips of a store into shared memory; clips decoded from media files are stacked. A clip that cannot be decoded
is replaced by one of another video. Workers that are killed are replaced, and no batch is lost or doubled.

Letters: B clips of a process's batch, T frames, C = 3 colour channels, H x W pixels, N samples of an audio window.
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
from torch.utils.data import DataLoader, Dataset

from cmmixer.data.dataset import ClipDataset, StoreClips
from cmmixer.data.sampler import BatchOrder, BatchRequest, StepSampler
from cmmixer.data.shared_memory import SharedBatch, SharedBatchPool
from cmmixer.errors import DataError, InputError, MediaError
from cmmixer.runtime import keep_freed_memory
from cmmixer.types import Batch, Clip

# More videos in a row that cannot be decoded than this are no accident of single files.
MAX_FAILED_VIDEOS = 64

# More deaths of loading processes without a batch between them than this have a lasting cause.
MAX_WORKER_DEATHS = 3

# Batches that each worker loads ahead.
_PREFETCH = 2

# A batch, or where it lies, or why there is none; and the videos that could not be decoded on the way.
_Loaded = tuple[Batch | SharedBatch | InputError, list[MediaError]]


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
    """Returns one epoch of batches; see `ClipBatches`, which keeps its workers over many epochs."""
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


class ClipBatches:
    """Batches of a data set for one process of a training run. Its workers stay alive from epoch to epoch.

    Attributes:
        skips: the data set's report; files that cannot be decoded during training are added, each once.
        replaced: how many rows of batches got another clip because of them.
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
        """Starts nothing yet; the first epoch starts the workers.

        Args:
            dataset: the clips.
            batch_size: B, clips per process and step.
            seed: of the order.
            rank, world: which of how many processes this one is.
            num_workers: loading processes; 0 loads in this one. The batches are the same for any number.
            shuffle: whether the order changes with seed and epoch.
            drop_last: leave out the last clips that do not fill a global batch; otherwise the last batch is shorter.
            pin_memory: return batches in page-locked memory, for copies to a GPU.

        Raises:
            DataError: no clips, or with `drop_last` too few for one step.
        """
        step_clips = batch_size * world
        if len(dataset) < (step_clips if drop_last else 1):
            raise DataError(
                f"{len(dataset)} clips are too few: one step takes {batch_size} clips x {world} processes; "
                "give more videos, a smaller --batch_size or a smaller --stride_seconds"
            )
        self.skips = dataset.skips
        self.replaced = 0
        # Without drop_last the last global batch may end before this process's rows.
        self._steps = len(dataset) // step_clips if drop_last else -(-(len(dataset) - rank * batch_size) // step_clips)
        order = BatchOrder(len(dataset), seed, shuffle, batch_size, rank, world)
        self._start_workers = partial(
            _sampler_and_loader, dataset, order, self._steps, num_workers=num_workers, pin_memory=pin_memory
        )
        self._sampler, self._loader = self._start_workers()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch from `start_step` on. If a worker is killed, new ones continue after the last batch.

        Raises:
            DataError: too many videos in a row cannot be decoded; or workers are killed again and again, as the system does
                when memory runs out.
            StoreError: the clip store is damaged.
        """
        step, deaths = start_step, 0
        while step < self._steps:
            self._sampler.epoch, self._sampler.start_step = epoch, step
            try:
                for loaded, failures in self._loader:
                    if isinstance(loaded, InputError):
                        raise loaded
                    for failure in failures:
                        self._report(failure)
                    step, deaths = step + 1, 0
                    # No reference is kept here: the batch's buffer is needed for another one.
                    yield loaded.batch() if isinstance(loaded, SharedBatch) else loaded
            except (RuntimeError, EOFError, OSError) as error:
                if self._loader.num_workers == 0 or not is_worker_death(error):
                    raise
                deaths += 1
                if deaths > MAX_WORKER_DEATHS:
                    raise DataError(
                        f"--num_workers: {deaths} times in a row a loading process was killed; if memory runs out, give fewer "
                        f"({' '.join(str(error).split())})"
                    ) from error
                self._sampler, self._loader = self._start_workers()

    def _report(self, failure: MediaError) -> None:
        self.replaced += 1
        if all(skip.path != failure.path for skip in self.skips):
            self.skips.add(failure.path, failure.reason, failure.message)


@dataclass
class EpochBatches:
    """One epoch of `batches` from `start_step` on; has a length and can be iterated again."""

    batches: ClipBatches
    epoch: int
    start_step: int

    def __len__(self) -> int:
        return max(len(self.batches) - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches.epoch(self.epoch, self.start_step)


def collate(clips: Sequence[Clip]) -> Batch:
    """Stacks clips that have both video and audio.

    Raises:
        DataError: a clip lacks one of them.
    """
    pixels, samples = [], []
    for clip in clips:
        if clip.frames is None or clip.sound is None:
            missing = "audio" if clip.frames else "video"
            raise DataError(f"{clip.id}: training needs video and audio; it has no {missing}")
        pixels.append(clip.frames.pixels_THWC)
        samples.append(clip.sound.samples_TN)
    video_BTHWC = torch.from_numpy(np.stack(pixels))
    return Batch(
        ids=[clip.id for clip in clips],
        labels=[clip.label for clip in clips],
        video_BTCHW=video_BTHWC.permute(0, 1, 4, 2, 3).contiguous(),
        audio_BTN=torch.from_numpy(np.stack(samples)),
    )


class _BatchDataset(Dataset[_Loaded]):
    """Loads the batch of a request; runs in a worker, or in the main process where there are none."""

    def __init__(self, dataset: ClipDataset, order: BatchOrder, pool: SharedBatchPool | None) -> None:
        self.dataset, self.order, self.pool = dataset, order, pool
        self.failed: dict[int, MediaError] = {}

    def __getitem__(self, request: BatchRequest) -> _Loaded:
        epoch, step, buffer = request
        indices = self.order.indices(epoch, step)
        try:
            if isinstance(self.dataset, StoreClips):
                return self._from_store(self.dataset, indices, buffer), []
            return self._decoded(indices)
        except InputError as error:  # raised in a worker, torch would bury it in a traceback
            return error, []

    def _from_store(self, dataset: StoreClips, indices: list[int], buffer: int | None) -> Batch | SharedBatch:
        ids, labels = [dataset.ids[index] for index in indices], [dataset.labels[index] for index in indices]
        if self.pool is not None and buffer is not None:
            video_BTCHW, audio_BTN = self.pool.arrays(buffer)
            dataset.read_into(indices, video_BTCHW[: len(indices)], audio_BTN[: len(indices)])
            return SharedBatch(self.pool.number, buffer, ids, labels)
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
        """Reads clips; one that failed in this process is not tried again."""
        untried = [index for index in indices if index not in self.failed]
        results = dict(zip(untried, self.dataset.read(untried), strict=True))
        self.failed.update((index, result) for index, result in results.items() if isinstance(result, MediaError))
        return [self.failed[index] if index in self.failed else results[index] for index in indices]

    def _replacement(self, index: int, failures: list[MediaError]) -> Clip:
        """Returns the next clip of another video that can be decoded; the same one in every process."""
        sources = self.dataset.sources
        tried = {sources[index]}
        for offset in range(1, len(sources)):
            other = (index + offset) % len(sources)
            if sources[other] in tried:
                continue
            result = self._read([other])[0]
            if isinstance(result, Clip):
                return result
            tried.add(sources[other])
            if len(tried) > MAX_FAILED_VIDEOS:
                break
        last = failures[-1]
        raise DataError(f"{len(tried)} videos in a row could not be decoded, the first one {last.path}: {last.message}")


def is_worker_death(error: Exception) -> bool:
    """Whether torch reports with this error that a worker was killed; it has no error type of its own for that.

    A batch that a worker had handed over may be out of reach too, because its memory is requested from the worker.
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    # Errors that the data set itself raised in a worker begin with "Caught".
    return isinstance(error, EOFError | ConnectionError | FileNotFoundError) and not str(error).startswith("Caught ")


def _sampler_and_loader(
    dataset: ClipDataset, order: BatchOrder, steps: int, *, num_workers: int, pin_memory: bool
) -> tuple[StepSampler, DataLoader[Any]]:
    """Returns a sampler and a loader with a new pool: workers of an abandoned loader may still write to the old one."""
    pool = None
    if num_workers > 0 and isinstance(dataset, StoreClips):
        # What torch lets the workers load ahead, one batch in use and one that is about to be released.
        pool = SharedBatchPool(dataset.store.settings, order.batch_size, num_workers * _PREFETCH + 2)
    sampler = StepSampler(steps, pool)
    loader: DataLoader[Any] = DataLoader(
        _BatchDataset(dataset, order, pool),
        sampler=sampler,
        batch_size=None,  # each item is a whole batch
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=_PREFETCH if num_workers > 0 else None,
        worker_init_fn=_initialize_worker,
        multiprocessing_context=_start_method() if num_workers > 0 else None,
        pin_memory=pin_memory,
    )
    return sampler, loader


def _initialize_worker(_: int) -> None:
    keep_freed_memory()
    _exit_with_main_process()


def _exit_with_main_process() -> None:
    """Ends the worker when the main process is killed.

    torch's own watch looks at the parent, which here is the fork server; and that stays as long as its workers do.
    """
    main_process = multiprocessing.parent_process()
    assert main_process is not None

    def watch() -> None:
        multiprocessing.connection.wait([main_process.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_method() -> str:
    """Lance and decoders keep threads, which a forked copy of this process would lack."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
