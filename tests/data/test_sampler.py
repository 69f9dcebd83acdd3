"""The order of clips follows from (seed, epoch, step) alone, and a step requests a free buffer for its batch."""

from __future__ import annotations

import numpy as np
import pytest

from cmmixer.data.sampler import BatchOrder, StepSampler, epoch_order
from cmmixer.data.shared_memory import SharedBatchPool
from tests.support.small_runs import PICO


def slow_indices(
    count: int, seed: int, epoch: int, step: int, *, size: int, rank: int, world: int, shuffle: bool
) -> list[int]:
    """The formula of the module's docstring: rows r*B to (r+1)*B of global batch k."""
    order = epoch_order(count, seed=seed, epoch=epoch, shuffle=shuffle).tolist()
    global_batch = order[step * size * world : (step + 1) * size * world]
    return list(global_batch[rank * size : (rank + 1) * size])


def test_the_order_of_an_epoch_is_frozen() -> None:
    # A checkpoint of an older version must resume in the order it began with.
    assert epoch_order(10, seed=3, epoch=2, shuffle=True).tolist() == [7, 4, 1, 8, 6, 0, 2, 9, 3, 5]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch, shuffle=True) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch_order(5, seed=9, epoch=9, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    assert epoch_order(0, seed=0, epoch=0, shuffle=True).tolist() == []


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "size", "world"), [(24, 4, 1), (26, 2, 3), (13, 4, 2), (3, 5, 2)])
def test_indices_are_those_of_the_formula(count: int, size: int, world: int, shuffle: bool) -> None:
    for rank in range(world):
        order = BatchOrder(count, 5, shuffle, size, rank, world)
        for epoch in (0, 3, 0):  # the order of an epoch is kept until another one is requested
            for step in range(count // (size * world) + 2):
                expected = slow_indices(
                    count, 5, epoch, step, size=size, rank=rank, world=world, shuffle=shuffle
                )  # fmt: skip
                assert order.indices(epoch, step) == expected


def test_the_ranks_of_an_epoch_visit_every_clip_once() -> None:
    orders = [BatchOrder(24, 0, True, 4, rank, 3) for rank in range(3)]
    seen = [index for order in orders for step in range(2) for index in order.indices(7, step)]
    assert sorted(seen) == list(range(24))


def test_indices_are_plain_integers() -> None:
    assert {type(index) for index in BatchOrder(9, 0, True, 3, 0, 1).indices(0, 0)} == {int}


def test_a_sampler_requests_the_rest_of_an_epoch() -> None:
    sampler = StepSampler(5, None)
    assert list(sampler) == [(0, step, None) for step in range(5)]
    sampler.epoch, sampler.start_step = 3, 4
    assert list(sampler) == [(3, 4, None)]
    sampler.start_step = 5
    assert list(sampler) == []


def test_requests_name_free_buffers_until_there_are_none() -> None:
    pool = SharedBatchPool(PICO, 2, 3)
    buffers = [buffer for _, _, buffer in StepSampler(5, pool)]
    assert sorted(buffer for buffer in buffers[:3] if buffer is not None) == [0, 1, 2]
    assert buffers[3:] == [None, None]
    # Requests that nobody answered are dropped when the next epoch starts.
    assert [buffer is None for _, _, buffer in StepSampler(5, pool)] == [False] * 3 + [True] * 2
