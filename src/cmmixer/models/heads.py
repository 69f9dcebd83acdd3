"""From tokens to embeddings: pooled features of a tower, their normalization over the batch, and the projection.

    embedding = unit(project(normalize(feature)))

`FeatureNorm` is BatchNorm (arXiv 1502.03167) without affine parameters, over all processes. PyTorch's SyncBatchNorm does not
run on CPU, and normalizes only the tensor its statistics came from. Here the features of the frames are normalized with the
statistics of the clips' features.

`fit_cca` initializes the projections with the canonical correlations of the training pairs (Hotelling 1936; shrinkage:
Vinod 1976):

    C_vv = cov(v) + r I,  C_aa = cov(a) + r I,  C_va = cov(v, a), of normalized features
    U diag(s) V' = C_vv^(-1/2) C_va C_aa^(-1/2);   head_v = diag(s) U' C_vv^(-1/2),  head_a = diag(s) V' C_aa^(-1/2)

Before the first step of fine-tuning, the frames and the sound of a clip are then as close as linear maps of the features can
bring them, each direction weighted by its correlation. Contrastive training starts there instead of at a random projection.

Letters: B clips, T frames, C channels, H x W pixels, L tokens, N visible ones (in `fit_cca` N pairs), D width of a tower,
K directions, E length of an embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from cmmixer.models.onednn import Linear
from cmmixer.models.patches import frame_parts, patchify, strip_grid
from cmmixer.models.vit import Encoded, StripEncoder, initialize


def tower_features(
    encoder: StripEncoder,
    frames_BTCHW: Tensor,
    patch: int,
    interleave: bool = False,
    *,
    frame_level: bool = False,
    mask_ratio: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Encodes one modality and pools its tokens: features of the clips [B, D] and of their frames [B, T, D].

    Args:
        encoder: of the tower.
        frames_BTCHW: normalized frames or mel spectrograms.
        patch, interleave: how a strip is cut into patches.
        frame_level: encode each frame as a strip of its own. Its features then depend neither on the other frames nor on
            its position among them, and those of the clip are their mean.
        mask_ratio: fraction of the tokens dropped; with `frame_level`, of each frame.
        noise: [B, L], required if `mask_ratio` is above 0; the tokens with the least noise stay.

    Raises:
        ValueError: the frames are not a whole number of patches, or noise is missing.
    """
    _, frames, _, height, width = frames_BTCHW.shape
    if frame_level:
        noise = None if noise is None else noise.reshape(-1, noise.shape[1] // frames)
        single_frames = frames_BTCHW.flatten(0, 1).unsqueeze(1)  # [B * T, 1, C, H, W]
        features, _ = tower_features(encoder, single_frames, patch, interleave, mask_ratio=mask_ratio, noise=noise)
        frames_BTD = features.reshape(-1, frames, features.shape[1])
        return frames_BTD.mean(dim=1), frames_BTD
    grid = strip_grid(height, width, frames, patch)
    patches_BLP = patchify(frames_BTCHW, patch, interleave)
    encoded = encoder.encode(patches_BLP, grid, mask_ratio=mask_ratio, noise=noise)
    return pool(encoded, frame_parts(frames, grid, patch, interleave, frames_BTCHW.device))


def pool(encoded: Encoded, parts_TL: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the visible tokens without the cls token: over the clip [B, D] and per frame [B, T, D].

    A frame whose tokens were all dropped gets zeros.

    Args:
        encoded: from the encoder.
        parts_TL: fraction of each token that belongs to each frame; see `patches.frame_parts`.
    """
    tokens_BND = encoded.tokens_BND[:, 1:].float()
    parts = parts_TL
    if encoded.ids_restore_BL is not None:
        keep_BN = encoded.ids_restore_BL.argsort(dim=1)[:, : tokens_BND.shape[1]]
        parts = parts_TL[:, keep_BN].transpose(0, 1)  # [B, T, N]
    weights = parts / parts.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return tokens_BND.mean(dim=1), torch.matmul(weights, tokens_BND)


class Head(nn.Module):
    """Normalizes features over the batch, projects them, and scales them to unit length."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.feature_norm = FeatureNorm(dim)
        self.project = Linear(dim, embed_dim, bias=False)
        self.apply(initialize)

    def forward(self, clip_BD: Tensor, frames_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds clips and frames: [B, E] and [B, T, E], float32, unit length. Frames use the statistics of the clips."""
        statistics = self.feature_norm.statistics(clip_BD.float())
        clip_BE = self.project(self.feature_norm.normalize(clip_BD.float(), statistics))
        frames_BTE = self.project(self.feature_norm.normalize(frames_BTD.float(), statistics))
        return functional.normalize(clip_BE.float(), dim=-1), functional.normalize(frames_BTE.float(), dim=-1)

    @torch.no_grad()
    def initialize_from_cca(self, rows_KD: Tensor, correlations_K: Tensor, features_ND: Tensor) -> None:
        """Takes the rows of a CCA as projection, and the statistics of the features it was fitted on.

        If the embedding has more than K values, the remaining rows keep their random initialization, scaled by the smallest
        correlation in use.
        """
        weight_ED = self.project.weight
        used = min(len(rows_KD), len(weight_ED))
        weight_ED[used:] *= float(correlations_K[used - 1])
        weight_ED[:used] = rows_KD[:used].to(weight_ED)
        self.feature_norm.initialize_from(features_ND)


class FeatureStatistics(NamedTuple):
    """Mean and population variance of each feature, [D] each."""

    mean_D: Tensor
    variance_D: Tensor


class FeatureNorm(nn.Module):
    """Computes (x - mean) / sqrt(variance + eps) for each feature.

    In training, mean and population variance are those of the batch over all processes, with gradients. The running
    statistics move towards them; over the first batches they are the plain average, so that short runs are right too. In
    evaluation the running statistics are used, so that a clip's result does not depend on its batch.

    Args:
        dim: D, number of features.
        momentum: weight of a new batch in the running statistics; at least 1 / number of batches so far.
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
        """[B, D] -> [B, D], normalized with the batch's statistics, in evaluation with the running ones."""
        return self.normalize(features_BD, self.statistics(features_BD))

    def statistics(self, features_BD: Tensor) -> FeatureStatistics:
        """Returns the statistics to normalize with. In training this also updates the running ones."""
        if not self.training:
            return FeatureStatistics(self.running_mean, self.running_variance)
        count = features_BD.new_full((1,), len(features_BD))
        total = _sum_over_processes(torch.cat([features_BD.sum(dim=0), count]))
        count_1, mean_D = total[-1:].detach(), total[:-1] / total[-1:].detach()
        # Subtract before squaring: E[x^2] - E[x]^2 would lose the digits of a small variance.
        variance_D = _sum_over_processes((features_BD - mean_D).square().sum(dim=0)) / count_1
        with torch.no_grad():
            self.batches += 1.0
            weight = (1.0 / self.batches).clamp(min=self.momentum)
            self.running_mean.lerp_(mean_D.to(self.running_mean.dtype), weight)
            self.running_variance.lerp_(variance_D.to(self.running_variance.dtype), weight)
        return FeatureStatistics(mean_D, variance_D)

    def normalize(self, features: Tensor, statistics: FeatureStatistics) -> Tensor:
        """Normalizes [..., D] with the given statistics."""
        return (features - statistics.mean_D) * torch.rsqrt(statistics.variance_D + self.eps)

    def initialize_from(self, features_ND: Tensor) -> None:
        """Sets the running statistics to those of these features, as if they had been the first batch."""
        variance_D, mean_D = torch.var_mean(features_ND.double(), dim=0, correction=0)
        self.batches.fill_(1.0)
        self.running_mean.copy_(mean_D)
        self.running_variance.copy_(variance_D)


class _SumOverProcesses(torch.autograd.Function):
    """Sums over all processes. The loss of each process depends on the sum, so backward sums the gradients as well."""

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


# Added to the unit variances of the features. Features of untrained nano towers have an effective rank of 15 to 20 of 128.
SHRINKAGE = 0.1


class CCAMaps(NamedTuple):
    """Linear maps of normalized features into a common space.

    Attributes:
        video_KD, audio_KD: float64, one direction per row, the most correlated first.
        correlations_K: in [0, 1], descending.
    """

    video_KD: Tensor
    audio_KD: Tensor
    correlations_K: Tensor


def fit_cca(video_ND: Tensor, audio_ND: Tensor, shrinkage: float = SHRINKAGE) -> CCAMaps:
    """Fits a regularized canonical correlation analysis; formulas at the head of this file.

    Args:
        video_ND, audio_ND: features; rows of the same index are a pair.
        shrinkage: r, above 0.

    Raises:
        ValueError: fewer than two pairs, or different numbers of rows.
    """
    if video_ND.shape[0] != audio_ND.shape[0] or len(video_ND) < 2:
        raise ValueError(
            f"expected at least two pairs of features; got {tuple(video_ND.shape)} of video, {tuple(audio_ND.shape)} of audio"
        )
    video, audio = _normalized(video_ND), _normalized(audio_ND)
    white_video, white_audio = _whitening(video, shrinkage), _whitening(audio, shrinkage)
    left, correlations, right = torch.linalg.svd(white_video @ (video.T @ audio / len(video)) @ white_audio)
    scale = correlations.unsqueeze(1)
    return CCAMaps(scale * (left.T @ white_video), scale * (right @ white_audio), correlations)


def _normalized(features_ND: Tensor) -> Tensor:
    features = features_ND.double()
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return (features - mean) * torch.rsqrt(variance + 1e-12)


def _whitening(features_ND: Tensor, shrinkage: float) -> Tensor:
    """Returns the inverse square root of the shrunk covariance."""
    covariance = features_ND.T @ features_ND / len(features_ND)
    values_D, vectors = torch.linalg.eigh(covariance)
    # Rounding can make an eigenvalue of a singular covariance slightly negative.
    inverse_root: Tensor = (vectors * torch.rsqrt(values_D.clamp(min=0.0) + shrinkage)) @ vectors.T
    return inverse_root
