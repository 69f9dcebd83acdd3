"""Draws follow from (seed, step) alone, and processes share them row by row."""

from __future__ import annotations

import torch

from cmmixer.train.inputs import Chance, chance_of_step

CPU = torch.device("cpu")


def drawn(seed: int, step: int, rank: int, world: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    chance: Chance = chance_of_step(seed, step, device=CPU, rank=rank, world=world, batch_size=batch_size)
    host = torch.rand(chance.batch, 3, generator=chance.cpu)[chance.rows]
    device = torch.rand(chance.batch, 3, generator=chance.device)[chance.rows]
    return host, device


def test_same_seed_and_step_draw_the_same() -> None:
    for first, second in zip(drawn(3, 11, 0, 1, 4), drawn(3, 11, 0, 1, 4), strict=True):
        assert torch.equal(first, second)


def test_other_steps_seeds_and_generators_draw_otherwise() -> None:
    seen = [tensor for seed, step in ((3, 11), (3, 12), (4, 11)) for tensor in drawn(seed, step, 0, 1, 4)]
    assert len({tuple(tensor.flatten().tolist()) for tensor in seen}) == 6


def test_four_processes_see_together_what_one_sees() -> None:
    whole = drawn(0, 5, 0, 1, 16)
    parts = [drawn(0, 5, rank, 4, 4) for rank in range(4)]
    for which in (0, 1):
        assert torch.equal(torch.cat([part[which] for part in parts]), whole[which])
