"""Standardisation of features over the batch: BatchNorm (arXiv 1502.03167) without affine, over all processes.

PyTorch's SyncBatchNorm does not run on CPU, and normalises only what its statistics were taken from; here a second
tensor (the frames' features) passes with the first one's statistics.

Letters: B clips of this process, D features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
