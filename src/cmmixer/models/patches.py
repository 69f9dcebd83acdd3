"""Clips as strips, strips as patches.

Letters: B clips, T frames, C channels, H x W pixels of a frame, S = T * W pixels of a strip's width, p patch side,
R x K grid of patches (R = H / p, K = S / p), L = R * K tokens in row-major order, P = p * p * C numbers of a patch.

Random masking of tokens (arXiv 2111.06377): a shuffle by noise, of which the first tokens stay.

Letters: B clips, L tokens, N tokens that stay, D width of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmmixer.errors import SettingsError


class Grid(NamedTuple):
    """R x K patches of a strip."""

    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        return self.rows * self.cols


def strip_grid(height: int, width: int, frames: int, patch: int) -> Grid:
    """The grid of a strip of `frames` pictures of height x width pixels.

    Raises:
        SettingsError: the pictures are no whole number of patches; a patch would straddle two frames.
    """
    if height % patch or width % patch:
        raise SettingsError(
            f"pictures of {height} x {width} pixels are no whole number of patches of side {patch}; "
            "give --height and --width as multiples of it"
        )
    return Grid(height // patch, frames * width // patch)


def to_strip(pictures_BTCHW: Tensor, interleave: bool = False) -> Tensor:
    """[B, T, C, H, W] -> [B, C, H, T * W], frames side by side.

    With `interleave`, column w * T + t of the strip is column w of frame t, as in the published code.
    """
    if interleave:
        return pictures_BTCHW.permute(0, 2, 3, 4, 1).flatten(3)
    return pictures_BTCHW.permute(0, 2, 3, 1, 4).flatten(3)


def from_strip(strip_BCHS: Tensor, frames: int, interleave: bool = False) -> Tensor:
    """The inverse of `to_strip`: [B, C, H, T * W] -> [B, T, C, H, W]."""
    if interleave:
        return torch.unflatten(strip_BCHS, 3, (-1, frames)).permute(0, 4, 1, 2, 3)
    return torch.unflatten(strip_BCHS, 3, (frames, -1)).permute(0, 3, 1, 2, 4)


def patchify(strip_BCHS: Tensor, patch: int) -> Tensor:
    """[B, C, H, S] -> [B, L, P]; within a patch: channel, row, column, so that whole rows of a patch are copied."""
    cells_BCRiKj = torch.unflatten(torch.unflatten(strip_BCHS, 3, (-1, patch)), 2, (-1, patch))
    return cells_BCRiKj.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches_BLP: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`: [B, L, P] -> [B, C, H, S], for a grid of R x K patches.

    Raises:
        ValueError: another number of patches than the grid has.
    """
    rows, cols = grid
    if patches_BLP.shape[1] != rows * cols:
        raise ValueError(f"got {patches_BLP.shape[1]} patches, expected {rows} x {cols}")
    cells_BRKCij = torch.unflatten(torch.unflatten(patches_BLP, 1, (rows, cols)), 3, (-1, patch, patch))
    return cells_BRKCij.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def pictures_to_patches(pictures_BTCHW: Tensor, patch: int, interleave: bool = False) -> Tensor:
    """`patchify(to_strip(pictures))`, [B, T, C, H, W] -> [B, L, P], with one copy instead of two."""
    if interleave:
        return patchify(to_strip(pictures_BTCHW, interleave=True), patch)
    batch, frames, channels, height, width = pictures_BTCHW.shape
    grid = strip_grid(height, width, frames, patch)
    cells_BTCRiKj = torch.unflatten(torch.unflatten(pictures_BTCHW, 4, (-1, patch)), 3, (-1, patch))
    return cells_BTCRiKj.permute(0, 3, 1, 5, 2, 4, 6).reshape(batch, grid.tokens, patch * patch * channels)


def patches_to_pictures(
    patches_BLP: Tensor, frames: int, height: int, width: int, patch: int, interleave: bool = False
) -> Tensor:
    """The inverse of `pictures_to_patches`: [B, L, P] -> [B, T, C, H, W]."""
    strip_BCHS = unpatchify(patches_BLP, patch, strip_grid(height, width, frames, patch))
    return from_strip(strip_BCHS, frames, interleave)


def frame_parts(
    frames: int, grid: Grid, patch: int, interleave: bool = False, device: torch.device | None = None
) -> Tensor:
    """[T, L] float32: how much of each token's columns belongs to each frame; every token's parts sum to 1.

    Side by side, a token lies in one frame: ones and zeros. Interleaved, it holds columns of many.
    """
    column_S = torch.arange(grid.cols * patch, device=device)
    frame_S = column_S % frames if interleave else column_S // (grid.cols * patch // frames)
    of_frame_TS = (frame_S == torch.arange(frames, device=device).unsqueeze(1)).to(torch.float32)
    part_TK = torch.unflatten(of_frame_TS, 1, (grid.cols, patch)).mean(2)
    return part_TK.unsqueeze(1).expand(-1, grid.rows, -1).flatten(1)


def keep_count(tokens: int, mask_ratio: float) -> int:
    """How many of `tokens` stay: the nearest whole number, at least one."""
    return max(1, round(tokens * (1.0 - mask_ratio)))


def gather_tokens(tokens_BLD: Tensor, ids_BN: Tensor) -> Tensor:
    """[B, L, D], [B, N] -> [B, N, D]: the tokens of these numbers."""
    return tokens_BLD.gather(1, ids_BN.unsqueeze(2).expand(-1, -1, tokens_BLD.shape[2]))


class Shuffle(NamedTuple):
    """Which tokens stay.

    Attributes:
        keep_BN: int64, the tokens that stay, least noise first.
        mask_BL: float32, 1 where a token is dropped.
        restore_BL: int64, the place of token l in the shuffled order; below N it is visible.
    """

    keep_BN: Tensor
    mask_BL: Tensor
    restore_BL: Tensor


def shuffle(noise_BL: Tensor, keep: int) -> Shuffle:
    """The `keep` tokens of least noise stay, in each clip."""
    # Stable, so that equal noise gives the same order everywhere.
    order_BL = torch.argsort(noise_BL, dim=1, stable=True)
    restore_BL = torch.argsort(order_BL, dim=1)
    return Shuffle(order_BL[:, :keep], (restore_BL >= keep).to(torch.float32), restore_BL)


def random_masking(tokens_BLD: Tensor, keep: int, noise_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keeps, in each clip, the `keep` tokens of least noise.

    Returns:
        The visible tokens [B, N, D], and `mask_BL` and `restore_BL` of `Shuffle`.
    """
    keep_BN, mask_BL, restore_BL = shuffle(noise_BL, keep)
    return gather_tokens(tokens_BLD, keep_BN), mask_BL, restore_BL
