"""Every draw of a training step comes from (seed, step), so a resumed run draws what the uninterrupted one would have.

Draws are made for the whole batch over all processes and each process takes its rows: one process with 16 clips and two
with 8 see the same masks and mixes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Chance:
    """The generators of one step.

    Attributes:
        cpu: for draws that are made on the host.
        device: for draws that are made where the batch lies.
        batch: clips of the step over all processes.
        rows: which of them are this process's.
    """

    cpu: torch.Generator
    device: torch.Generator
    batch: int
    rows: slice


def chance_of_step(seed: int, step: int, *, device: torch.device, rank: int, world: int, batch_size: int) -> Chance:
    """The chance of one batch.

    Args:
        seed: the run's.
        step: number of the batch, from 0.
        device: where the batch lies.
        rank: this process.
        world: number of processes.
        batch_size: clips per process.
    """
    host_seed, device_seed = (int(value) for value in np.random.SeedSequence([seed, step]).generate_state(2, np.uint64))
    # torch takes a signed 64-bit seed.
    cpu = torch.Generator().manual_seed(host_seed >> 1)
    on_device = torch.Generator(device=device).manual_seed(device_seed >> 1)
    return Chance(cpu, on_device, batch_size * world, slice(rank * batch_size, (rank + 1) * batch_size))
