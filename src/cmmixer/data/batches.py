"""Batches of a data set in a seeded order that can be entered anywhere.

Everything follows from (seed, epoch, step): the order of an epoch is one permutation of the data set, global batch k is
`order[k*B*W : (k+1)*B*W]`, and process r of W takes rows `[r*B, (r+1)*B)` of it. So two processes of 8 see together
what one process of 16 sees, and an epoch can be entered at any step, with any number of workers.

Letters: B clips of a process's batch, T frames, C = 3 colours, H x W pixels, N samples of a sound window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from cmmixer.data.dataset import ClipDataset
from cmmixer.data.loading import Order, planned, tells_of_a_death
from cmmixer.data.slots import Filled
from cmmixer.errors import DataError, InputError, MediaError
from cmmixer.types import Batch

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
