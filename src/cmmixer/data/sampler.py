"""The order in which clips are visited: seeded, resumable, and the same for any number of processes and workers.

Everything follows from (seed, epoch, step). The order of an epoch is one permutation of the data set, global batch k is
`order[k*B*W : (k+1)*B*W]`, and process r of W takes rows `[r*B, (r+1)*B)` of it. So two processes of 8 clips see together
what one process of 16 sees, and an epoch can be entered at any step.

Letters: B clips of a process's batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cmmixer.data.shared_memory import SharedBatchPool

# Epoch, step, and the shared buffer to put the batch into, if one is free.
BatchRequest = tuple[int, int, int | None]


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Returns the order in which an epoch visits the clips: a permutation of `range(count)`."""
    return np.random.default_rng((seed, epoch)).permutation(count) if shuffle else np.arange(count)


@dataclass
class BatchOrder:
    """Which clips a process takes at (epoch, step).

    Attributes:
        count: clips of the data set.
        seed: of the permutations.
        shuffle: whether the order changes with seed and epoch.
        batch_size: B, clips per process and step.
        rank, world: which of how many processes this one is.
    """

    count: int
    seed: int
    shuffle: bool
    batch_size: int
    rank: int
    world: int
    _drawn: tuple[int, NDArray[np.int64]] | None = None

    def indices(self, epoch: int, step: int) -> list[int]:
        """Returns the indices of the clips; fewer than B, or none, after the last full global batch."""
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, epoch_order(self.count, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        first = (step * self.world + self.rank) * self.batch_size
        return [int(index) for index in self._drawn[1][first : first + self.batch_size]]


class StepSampler(Sampler[BatchRequest]):
    """Requests the batches of an epoch from `start_step` on. The main process sets `epoch` and `start_step` before each.

    Args:
        steps: steps of an epoch.
        pool: buffers for the batches; None: each batch travels in memory of its own.
    """

    def __init__(self, steps: int, pool: SharedBatchPool | None) -> None:
        self.steps, self.epoch, self.start_step = steps, 0, 0
        self.pool = pool

    def __iter__(self) -> Iterator[BatchRequest]:
        # By now torch has received whatever an epoch that was left early had under way.
        if self.pool is not None:
            self.pool.reclaim()
        for step in range(self.start_step, self.steps):
            yield self.epoch, step, None if self.pool is None else self.pool.acquire()
