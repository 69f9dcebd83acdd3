"""Standardisation of features over the batch: BatchNorm (arXiv 1502.03167) without affine, over all processes.

PyTorch's SyncBatchNorm does not run on CPU, and normalises only what its statistics were taken from; here a second
tensor (the frames' features) passes with the first one's statistics.

Letters: B clips of this process, D features.

Heads that start at the canonical correlations of the training pairs (Hotelling 1936; shrinkage: Vinod 1976).

    C_vv = cov(v) + r I,  C_aa = cov(a) + r I,  C_va = cov(v, a), of standardised features
    U diag(s) V' = C_vv^(-1/2) C_va C_aa^(-1/2);   head_v = diag(s) U' C_vv^(-1/2),  head_a = diag(s) V' C_aa^(-1/2)

So before the first step of fine-tuning a clip's picture and sound already lie as near to one another as linear maps of what
the towers give can bring them, each direction weighted by how well the senses agree on it; the contrast begins there
instead of at a random projection.

Letters: N pairs, D width of a tower, K directions, at most D.

What a tower says about clips: the mean of its tokens, over the clip and per frame.

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cmmixer.models.patches import frame_parts, pictures_to_patches, strip_grid
from cmmixer.models.vit import Encoded, StripEncoder


class FeatureStatistics(NamedTuple):
    """Mean and population variance of each feature, [D] each."""

    mean_D: Tensor
    variance_D: Tensor


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes. Each process's loss depends on it, so the gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


class BatchStandardize(nn.Module):
    """(x - mean) / sqrt(variance + eps) per feature.

    While training, mean and population variance are those of the batch over all processes, differentiably, and the
    running ones move towards them (at first as their plain average, so that a short run's are right too); in evaluation
    the running ones are used, so that a clip stands alone.

    Args:
        dim: D, number of features.
        momentum: how far the running statistics move towards a batch's; at least 1 / number of batches so far.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_variance: Tensor
    batches: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_variance", torch.ones(dim))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, features_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D], standardised with its own statistics, or in evaluation with the running ones."""
        return self.apply_to(features_BD, self.statistics(features_BD))

    def statistics(self, features_BD: Tensor) -> FeatureStatistics:
        """The statistics to standardise with; while training, the running ones take them in."""
        if not self.training:
            return FeatureStatistics(self.running_mean, self.running_variance)
        count = features_BD.new_full((1,), len(features_BD))
        total = _sum_over_processes(torch.cat([features_BD.sum(dim=0), count]))
        count_1, mean_D = total[-1:].detach(), total[:-1] / total[-1:].detach()
        # Deviations first, then squares: E[x^2] - E[x]^2 would lose the digits of a small spread.
        variance_D = _sum_over_processes((features_BD - mean_D).square().sum(dim=0)) / count_1
        with torch.no_grad():
            self.batches += 1.0
            step = (1.0 / self.batches).clamp(min=self.momentum)
            self.running_mean.lerp_(mean_D.to(self.running_mean.dtype), step)
            self.running_variance.lerp_(variance_D.to(self.running_variance.dtype), step)
        return FeatureStatistics(mean_D, variance_D)

    def start_at(self, features_ND: Tensor) -> None:
        """The running statistics start at those of these features, as if they had been the first batch."""
        variance_D, mean_D = torch.var_mean(features_ND.double(), dim=0, correction=0)
        self.batches.fill_(1.0)
        self.running_mean.copy_(mean_D)
        self.running_variance.copy_(variance_D)

    def apply_to(self, features: Tensor, statistics: FeatureStatistics) -> Tensor:
        """Standardises [..., D] with the given statistics."""
        return (features - statistics.mean_D) * torch.rsqrt(statistics.variance_D + self.eps)


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
