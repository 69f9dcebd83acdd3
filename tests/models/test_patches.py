"""Strips, patches and masking: against slow twins, inverses, and defects of the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmmixer.errors import SettingsError
from cmmixer.models.patches import (
    Grid,
    frame_parts,
    from_strip,
    gather_tokens,
    keep_count,
    patchify,
    patchify_strip,
    shuffle,
    strip_grid,
    to_strip,
    unpatchify,
    unpatchify_strip,
)
from tests.reference import patches_slow


def numbered(*shape: int) -> Tensor:
    return torch.arange(np.prod(shape), dtype=torch.float64).reshape(shape)


geometry = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans())


@settings(max_examples=30, deadline=None)
@given(geometry)
def test_strips_and_patches_equal_the_slow_twin_and_invert(drawn: tuple[int, int, int, int, bool]) -> None:
    frames, rows, cols, patch, interleave = drawn
    height, width = rows * patch, cols * patch
    clips = numbered(2, frames, 3, height, width)
    strip = to_strip(clips, interleave)
    patches = patchify_strip(strip, patch)
    grid = strip_grid(height, width, frames, patch)
    for b in range(2):
        slow_strip = patches_slow.strip(clips[b].numpy(), interleave)
        assert np.array_equal(strip[b].numpy(), slow_strip)
        assert patches[b].tolist() == patches_slow.patches(slow_strip, patch)
    assert torch.equal(patchify(clips, patch, interleave), patches)
    assert torch.equal(unpatchify_strip(patches, patch, grid), strip)
    assert torch.equal(from_strip(strip, frames, interleave), clips)
    assert torch.equal(unpatchify(patches, frames, height, width, patch, interleave), clips)


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize(("frames", "width", "patch"), [(4, 32, 16), (3, 8, 4), (1, 8, 8)])
def test_frame_parts_equal_the_slow_twin(frames: int, width: int, patch: int, interleave: bool) -> None:
    parts = frame_parts(frames, Grid(2, frames * width // patch), patch, interleave)
    slow = patches_slow.frame_parts(frames, width, 2, patch, interleave)
    torch.testing.assert_close(parts, torch.tensor(slow))
    torch.testing.assert_close(parts.sum(0), torch.ones(parts.shape[1]))


def test_strip_grid_is_rectangular() -> None:
    assert strip_grid(224, 224, 4, 16) == (14, 56)
    assert strip_grid(224, 224, 4, 16).tokens == 784


def test_published_defect_frames_are_interleaved_column_by_column() -> None:
    """There, the columns of the frames alternated. Here that is an option, and frames are side by side by default."""
    clips = torch.arange(3.0).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 2)
    assert to_strip(clips).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert to_strip(clips, interleave=True).flatten().tolist() == [0, 1, 2, 0, 1, 2]


def test_refuses_frames_that_do_not_fit_the_patches() -> None:
    expected = (
        "^frames of 30 x 32 pixels are not a whole number of patches of side 16; "
        "make --height and --width multiples of it$"
    )
    with pytest.raises(SettingsError, match=expected):
        patchify(torch.zeros(1, 1, 3, 30, 32), 16)
    with pytest.raises(SettingsError, match=r"^frames of 32 x 24 pixels are not"):
        strip_grid(32, 24, 2, 16)


def test_unpatchify_refuses_a_wrong_number_of_patches() -> None:
    with pytest.raises(ValueError, match=r"^got 8 patches, expected 3 x 3$"):
        unpatchify_strip(torch.zeros(1, 8, 12), 2, (3, 3))


@pytest.mark.parametrize(
    ("tokens", "ratio", "keep"), [(784, 0.75, 196), (64, 0.75, 16), (10, 0.9, 1), (10, 0.99, 1), (7, 0.0, 7)]
)
def test_keep_count_rounds_and_keeps_at_least_one(tokens: int, ratio: float, keep: int) -> None:
    assert keep_count(tokens, ratio) == keep


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**20))
def test_shuffle_and_gather_equal_loops(keep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 9, 2, generator=generator)
    noise = torch.rand(3, 9, generator=generator)
    keep_BN, mask, restore = shuffle(noise, keep)
    visible = gather_tokens(tokens, keep_BN)
    for b in range(3):
        order = sorted(range(9), key=lambda token: noise[b, token].item())
        assert keep_BN[b].tolist() == order[:keep]
        assert visible[b].tolist() == [tokens[b, token].tolist() for token in order[:keep]]
        assert mask[b].tolist() == [0.0 if token in order[:keep] else 1.0 for token in range(9)]
        assert [order[position] for position in restore[b].tolist()] == list(range(9))


def test_restore_undoes_the_shuffle() -> None:
    tokens = torch.randn(2, 6, 3)
    keep_BN, mask, restore = shuffle(torch.rand(2, 6), 6)
    assert torch.equal(gather_tokens(gather_tokens(tokens, keep_BN), restore), tokens)
    assert mask.sum() == 0


def test_restore_points_behind_the_visible_tokens_where_the_mask_is_1() -> None:
    keep_BN, mask, restore = shuffle(torch.rand(5, 12, generator=torch.Generator().manual_seed(0)), 3)
    assert keep_BN.shape == (5, 3)
    assert torch.equal(mask, (restore >= 3).float())
    assert torch.equal(restore.gather(1, keep_BN), torch.arange(3).expand(5, 3))


def test_equal_noise_keeps_the_first_tokens() -> None:
    keep_BN, mask, restore = shuffle(torch.zeros(1, 5), 2)
    assert keep_BN.tolist() == [[0, 1]]
    assert mask.tolist() == [[0.0, 0.0, 1.0, 1.0, 1.0]]
    assert restore.tolist() == [[0, 1, 2, 3, 4]]


def test_every_token_is_dropped_equally_often() -> None:
    mask = shuffle(torch.rand(4000, 8, generator=torch.Generator().manual_seed(0)), 2).mask_BL
    assert (mask.mean(0) - 0.75).abs().max() < 0.03


def test_gather_tokens_passes_gradients_to_the_chosen_tokens() -> None:
    tokens = torch.zeros(1, 4, 2, requires_grad=True)
    gather_tokens(tokens, torch.tensor([[2, 0]])).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_the_parts_of_a_frame_in_an_interleaved_strip() -> None:
    """Three frames, patches of two columns: frame t has column w at w * 3 + t."""
    parts = frame_parts(3, Grid(1, 3), 2, interleave=True)
    assert parts.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    assert frame_parts(3, Grid(2, 3), 2).tolist() == [[1, 0, 0] * 2, [0, 1, 0] * 2, [0, 0, 1] * 2]
