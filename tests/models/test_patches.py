"""TODO-DOC"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmmixer.models.patches import (
    Grid,
    frame_parts,
    from_strip,
    gather_tokens,
    keep_count,
    patches_to_pictures,
    patchify,
    pictures_to_patches,
    random_masking,
    strip_grid,
    to_strip,
    unpatchify,
)
from tests.reference import patches_slow


def numbered(*shape: int) -> Tensor:
    return torch.arange(np.prod(shape), dtype=torch.float64).reshape(shape)


geometry = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans())


@settings(max_examples=30, deadline=None)
@given(geometry)
def test_strip_and_patches_equal_the_slow_twin_and_come_back(drawn: tuple[int, int, int, int, bool]) -> None:
    frames, rows, cols, patch, interleave = drawn
    height, width = rows * patch, cols * patch
    pictures = numbered(2, frames, 3, height, width)
    strip = to_strip(pictures, interleave)
    patches = patchify(strip, patch)
    grid = strip_grid(height, width, frames, patch)
    for b in range(2):
        slow_strip = patches_slow.strip(pictures[b].numpy(), interleave)
        assert np.array_equal(strip[b].numpy(), slow_strip)
        assert patches[b].tolist() == patches_slow.patches(slow_strip, patch)
    assert torch.equal(pictures_to_patches(pictures, patch, interleave), patches)
    assert torch.equal(unpatchify(patches, patch, grid), strip)
    assert torch.equal(from_strip(strip, frames, interleave), pictures)
    assert torch.equal(patches_to_pictures(patches, frames, height, width, patch, interleave), pictures)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize(("frames", "width", "patch"), [(4, 32, 16), (3, 8, 4), (1, 8, 8)])
def test_frame_parts_equal_the_slow_twin(frames: int, width: int, patch: int, interleave: bool) -> None:
    parts = frame_parts(frames, Grid(2, frames * width // patch), patch, interleave)
    slow = patches_slow.frame_parts(frames, width, 2, patch, interleave)
    torch.testing.assert_close(parts, torch.tensor(slow))
    torch.testing.assert_close(parts.sum(0), torch.ones(parts.shape[1]))


def test_a_grid_is_rectangular() -> None:
    assert strip_grid(224, 224, 4, 16) == (14, 56)
    assert strip_grid(224, 224, 4, 16).tokens == 784


def test_published_defect_frames_are_interleaved_column_by_column() -> None:
    """There, column after column came from another frame; here that is an option, and frames stand side by side."""
    pictures = torch.arange(3.0).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 2)
    assert to_strip(pictures).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert to_strip(pictures, interleave=True).flatten().tolist() == [0, 1, 2, 0, 1, 2]


def test_pictures_that_are_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures of 30 x 32 pixels are no whole number of patches of side 16"):
        pictures_to_patches(torch.zeros(1, 1, 3, 30, 32), 16)
    with pytest.raises(ValueError, match="pictures of 32 x 24 pixels"):
        strip_grid(32, 24, 2, 16)


def test_unpatchify_refuses_another_grid() -> None:
    with pytest.raises(ValueError, match="got 8 patches, expected 3 x 3"):
        unpatchify(torch.zeros(1, 8, 12), 2, (3, 3))


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
