"""Heads that start at the canonical correlations of the training pairs (Hotelling 1936; shrinkage: Vinod 1976).

    C_vv = cov(v) + r I,  C_aa = cov(a) + r I,  C_va = cov(v, a), of standardised features
    U diag(s) V' = C_vv^(-1/2) C_va C_aa^(-1/2);   head_v = diag(s) U' C_vv^(-1/2),  head_a = diag(s) V' C_aa^(-1/2)

So before the first step of fine-tuning a clip's picture and sound already lie as near to one another as linear maps of what
the towers give can bring them, each direction weighted by how well the senses agree on it; the contrast begins there
instead of at a random projection.

Letters: N pairs, D width of a tower, K directions, at most D.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to the features' unit variances. Features of untrained nano towers have an effective rank of 15 to 20 of 128.
SHRINKAGE = 0.1


class CanonicalMaps(NamedTuple):
    """Linear maps for standardised features.

    Attributes:
        video_KD, audio_KD: float64 rows, the best direction first.
        correlations_K: between 0 and 1, falling.
    """

    video_KD: Tensor
    audio_KD: Tensor
    correlations_K: Tensor


def canonical_maps(video_ND: Tensor, audio_ND: Tensor, shrinkage: float = SHRINKAGE) -> CanonicalMaps:
    """The maps of pairs of features.

    Args:
        video_ND, audio_ND: features; row i of one belongs to row i of the other.
        shrinkage: r, above 0.

    Raises:
        ValueError: fewer than two pairs, or unequal numbers of rows.
    """
    if video_ND.shape[0] != audio_ND.shape[0] or len(video_ND) < 2:
        raise ValueError(f"expected pairs of features, at least two; got {video_ND.shape} and {audio_ND.shape}")
    video, audio = _standardised(video_ND), _standardised(audio_ND)
    white_video, white_audio = _whitening(video, shrinkage), _whitening(audio, shrinkage)
    left, correlations, right = torch.linalg.svd(white_video @ (video.T @ audio / len(video)) @ white_audio)
    scale = correlations.unsqueeze(1)
    return CanonicalMaps(scale * (left.T @ white_video), scale * (right @ white_audio), correlations)


def _standardised(features_ND: Tensor) -> Tensor:
    features = features_ND.double()
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return (features - mean) * torch.rsqrt(variance + 1e-12)


def _whitening(features_ND: Tensor, shrinkage: float) -> Tensor:
    """The inverse square root of the shrunk covariance."""
    covariance = features_ND.T @ features_ND / len(features_ND)
    values_D, vectors = torch.linalg.eigh(covariance)
    # Rounding can leave a value of a singular covariance a little below 0.
    inverse_root: Tensor = (vectors * torch.rsqrt(values_D.clamp(min=0.0) + shrinkage)) @ vectors.T
    return inverse_root
