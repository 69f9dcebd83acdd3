"""What a tower says about clips: the mean of its tokens, over the clip and per frame.

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cmmixer.models.encoder import Encoded, StripEncoder
from cmmixer.models.strip import frame_parts, pictures_to_patches, strip_grid


def tower_features(
    encoder: StripEncoder,
    pictures_BTCHW: Tensor,
    patch: int,
    interleave: bool = False,
    *,
    apart: bool = False,
    mask_ratio: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Standardised pictures of one sense -> features over the clip [B, D] and per frame [B, T, D].

    Args:
        encoder: of the tower.
        pictures_BTCHW: frames or mel pictures.
        patch, interleave: how the strip is cut.
        apart: each frame is a strip of its own, so that its features know nothing of the other frames or of its place among
            them; those of the clip are the frames' mean.
        mask_ratio: part of the tokens dropped; of each frame, where they are apart.
        noise: for `mask_ratio` above 0, [B, L]; the tokens of least noise stay.

    Raises:
        ValueError: pictures that are no whole number of patches.
    """
    _, frames, _, height, width = pictures_BTCHW.shape
    if apart:
        noise = None if noise is None else noise.reshape(-1, noise.shape[1] // frames)
        each = pictures_BTCHW.flatten(0, 1).unsqueeze(1)
        features, _ = tower_features(encoder, each, patch, interleave, mask_ratio=mask_ratio, noise=noise)
        frames_BTD = features.reshape(-1, frames, features.shape[1])
        return frames_BTD.mean(dim=1), frames_BTD
    grid = strip_grid(height, width, frames, patch)
    patches_BLP = pictures_to_patches(pictures_BTCHW, patch, interleave)
    encoded = encoder.encode(patches_BLP, grid, mask_ratio=mask_ratio, noise=noise)
    return pool(encoded, frame_parts(frames, grid, patch, interleave, pictures_BTCHW.device))


def pool(encoded: Encoded, parts_TL: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the visible tokens, the cls token apart: over the clip [B, D] and per frame [B, T, D].

    A frame that lost all its tokens to the mask gives zeros.
    """
    tokens_BND = encoded.tokens_BND[:, 1:].float()
    parts = parts_TL
    if encoded.ids_restore_BL is not None:
        keep_BN = encoded.ids_restore_BL.argsort(dim=1)[:, : tokens_BND.shape[1]]
        parts = parts_TL[:, keep_BN].transpose(0, 1)
    weights = parts / parts.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return tokens_BND.mean(dim=1), torch.matmul(weights, tokens_BND)
