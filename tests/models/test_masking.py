from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmixer.models.masking import gather_tokens, keep_count, random_masking


@pytest.mark.parametrize(
    ("tokens", "ratio", "keep"), [(784, 0.75, 196), (64, 0.75, 16), (10, 0.9, 1), (10, 0.99, 1), (7, 0.0, 7)]
)
def test_how_many_stay(tokens: int, ratio: float, keep: int) -> None:
    assert keep_count(tokens, ratio) == keep


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**20))
def test_equals_loops(keep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 9, 2, generator=generator)
    noise = torch.rand(3, 9, generator=generator)
    visible, mask, restore = random_masking(tokens, keep, noise)
    for b in range(3):
        order = sorted(range(9), key=lambda number: noise[b, number].item())
        assert visible[b].tolist() == [tokens[b, number].tolist() for number in order[:keep]]
        assert mask[b].tolist() == [0.0 if number in order[:keep] else 1.0 for number in range(9)]
        assert [order[place] for place in restore[b].tolist()] == list(range(9))


def test_restore_undoes_the_shuffle() -> None:
    tokens = torch.randn(2, 6, 3)
    shuffled, mask, restore = random_masking(tokens, 6, torch.rand(2, 6))
    assert torch.equal(gather_tokens(shuffled, restore), tokens)
    assert mask.sum() == 0


def test_equal_noise_keeps_the_first() -> None:
    visible, _, _ = random_masking(torch.arange(5.0).reshape(1, 5, 1), 2, torch.zeros(1, 5))
    assert visible.flatten().tolist() == [0.0, 1.0]


def test_every_token_is_dropped_as_often() -> None:
    noise = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    _, mask, _ = random_masking(torch.zeros(4000, 8, 1), 2, noise)
    assert (mask.mean(0) - 0.75).abs().max() < 0.03
