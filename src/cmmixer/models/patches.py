"""Clips as strips, strips as patches, and the random masking of patches.

A strip is the frames of a clip side by side, one wide image. Its patches are the tokens of the encoder. Masking
(MAE, arXiv 2111.06377) shuffles them by noise and keeps the first ones.

Letters: B clips, T frames, C channels, H x W pixels of a frame, S = T * W width of a strip in pixels, p patch side,
R x K grid of patches (R = H / p, K = S / p), L = R * K tokens in row-major order, N tokens that stay, P = p * p * C numbers
of a patch, D width of a token.
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
    """Returns the grid of a strip of `frames` frames of height x width pixels.

    Raises:
        SettingsError: the frames are not a whole number of patches; a patch would straddle two of them.
    """
    if height % patch or width % patch:
        raise SettingsError(
            f"frames of {height} x {width} pixels are not a whole number of patches of side {patch}; "
            "make --height and --width multiples of it"
        )
    return Grid(height // patch, frames * width // patch)


def patchify(frames_BTCHW: Tensor, patch: int, interleave: bool = False) -> Tensor:
    """Cuts clips into patches: `patchify_strip(to_strip(frames))`, [B, T, C, H, W] -> [B, L, P], with one copy, not two."""
    if interleave:
        return patchify_strip(to_strip(frames_BTCHW, interleave=True), patch)
    batch, frames, channels, height, width = frames_BTCHW.shape
    grid = strip_grid(height, width, frames, patch)
    cells_BTCRiKj = torch.unflatten(torch.unflatten(frames_BTCHW, 4, (-1, patch)), 3, (-1, patch))
    return cells_BTCRiKj.permute(0, 3, 1, 5, 2, 4, 6).reshape(batch, grid.tokens, patch * patch * channels)


def unpatchify(
    patches_BLP: Tensor, frames: int, height: int, width: int, patch: int, interleave: bool = False
) -> Tensor:
    """Inverts `patchify`: [B, L, P] -> [B, T, C, H, W]."""
    strip_BCHS = unpatchify_strip(patches_BLP, patch, strip_grid(height, width, frames, patch))
    return from_strip(strip_BCHS, frames, interleave)


def to_strip(frames_BTCHW: Tensor, interleave: bool = False) -> Tensor:
    """Puts the frames of each clip side by side: [B, T, C, H, W] -> [B, C, H, T * W].

    With `interleave` the columns of the frames alternate, as in the published code: column w * T + t of the strip is column
    w of frame t.
    """
    if interleave:
        return frames_BTCHW.permute(0, 2, 3, 4, 1).flatten(3)
    return frames_BTCHW.permute(0, 2, 3, 1, 4).flatten(3)


def from_strip(strip_BCHS: Tensor, frames: int, interleave: bool = False) -> Tensor:
    """Inverts `to_strip`: [B, C, H, T * W] -> [B, T, C, H, W]."""
    if interleave:
        return torch.unflatten(strip_BCHS, 3, (-1, frames)).permute(0, 4, 1, 2, 3)
    return torch.unflatten(strip_BCHS, 3, (frames, -1)).permute(0, 3, 1, 2, 4)


def patchify_strip(strip_BCHS: Tensor, patch: int) -> Tensor:
    """Cuts strips into patches: [B, C, H, S] -> [B, L, P].

    A patch is ordered by channel, row, column, so that whole rows of it are copied.
    """
    cells_BCRiKj = torch.unflatten(torch.unflatten(strip_BCHS, 3, (-1, patch)), 2, (-1, patch))
    return cells_BCRiKj.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify_strip(patches_BLP: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Inverts `patchify_strip` for a grid of R x K patches: [B, L, P] -> [B, C, H, S].

    Raises:
        ValueError: the number of patches is not that of the grid.
    """
    rows, cols = grid
    if patches_BLP.shape[1] != rows * cols:
        raise ValueError(f"got {patches_BLP.shape[1]} patches, expected {rows} x {cols}")
    cells_BRKCij = torch.unflatten(torch.unflatten(patches_BLP, 1, (rows, cols)), 3, (-1, patch, patch))
    return cells_BRKCij.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def frame_parts(
    frames: int, grid: Grid, patch: int, interleave: bool = False, device: torch.device | None = None
) -> Tensor:
    """Computes the fraction of each token's columns that belongs to each frame, [T, L] float32.

    The fractions of a token sum to 1. With frames side by side each token lies in one frame, so they are ones and zeros. In
    an interleaved strip a token holds columns of many frames.
    """
    column_S = torch.arange(grid.cols * patch, device=device)
    frame_S = column_S % frames if interleave else column_S // (grid.cols * patch // frames)
    of_frame_TS = (frame_S == torch.arange(frames, device=device).unsqueeze(1)).to(torch.float32)
    part_TK = torch.unflatten(of_frame_TS, 1, (grid.cols, patch)).mean(2)
    return part_TK.unsqueeze(1).expand(-1, grid.rows, -1).flatten(1)


class Shuffle(NamedTuple):
    """Which tokens stay and which are dropped.

    Attributes:
        keep_BN: int64, indices of the tokens that stay, the one with the least noise first.
        mask_BL: float32, 1 where a token is dropped.
        restore_BL: int64, position of token l in the shuffled order; below N it is visible.
    """

    keep_BN: Tensor
    mask_BL: Tensor
    restore_BL: Tensor


def shuffle(noise_BL: Tensor, keep: int) -> Shuffle:
    """Keeps, in each clip, the `keep` tokens with the least noise."""
    # Stable, so that equal noise gives the same order on every device.
    order_BL = torch.argsort(noise_BL, dim=1, stable=True)
    restore_BL = torch.argsort(order_BL, dim=1)
    return Shuffle(order_BL[:, :keep], (restore_BL >= keep).to(torch.float32), restore_BL)


def keep_count(tokens: int, mask_ratio: float) -> int:
    """Returns how many of `tokens` stay: the nearest whole number, at least one."""
    return max(1, round(tokens * (1.0 - mask_ratio)))


def gather_tokens(tokens_BLD: Tensor, ids_BN: Tensor) -> Tensor:
    """Selects tokens by index: [B, L, D], [B, N] -> [B, N, D]."""
    return tokens_BLD.gather(1, ids_BN.unsqueeze(2).expand(-1, -1, tokens_BLD.shape[2]))
